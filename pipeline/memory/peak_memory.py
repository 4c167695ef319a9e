"""Peak-memory model: the maximum bytes on the device while a clip is generated.

For each stage, the moments that can be its peak are sums of the live tensors, in values per latent
cell or per pixel. Both were derived from counts of the worker's own code
(`python -m tests.bench.memory_count --tensors`), which a test repeats. Fragmentation and library
workspaces are not in the model: `required_memory` adds them, or a correction measured before.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.memory.dimensions import ModelDimensions
from pipeline.memory.modes import VAE_TILE_PIXELS, MemoryPolicy, Mode, Rung
from pipeline.request.sampling_plan import sampling_plan
from pipeline.request.spec import Spec

_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
_CONTEXT_TOKENS = 145
"""Context tokens of a frame in cross-attention: 77 of text, 64 + 4 of the picture."""

_MARGIN = 1.05
"""Upper bound of the formula's own error, checked by a test."""
_WORKSPACE_BYTES = 300_000_000
"""Added to a peak on a GPU for library workspaces and fragmentation."""
_UNCHUNKED_MARGIN = 1.16
"""Replaces _MARGIN on a GPU in unchunked modes, where both grow with the tensors.

Measured on an H200; a test compares it with the results.
"""


class PeakMemory(NamedTuple):
    """Peak bytes of each stage."""

    condition: int
    denoise: int
    decode: int

    @property
    def most(self) -> int:
        """Peak bytes of the whole attempt."""
        return max(self)


def peak_memory(spec: Spec, rung: Rung, dims: ModelDimensions, dtype: str) -> PeakMemory:
    """Predict the peak of a clip of this Spec on this rung."""
    return peak(rung, dims, dtype, guided=spec.guided, reuses=sampling_plan(spec).reuses_features)


def peak(
    rung: Rung, dims: ModelDimensions, dtype: str, *, guided: bool, reuses: bool = False
) -> PeakMemory:
    """Predict the peak of a clip on this rung.

    `guided`: guidance is over 1. `reuses`: deep features are cached from step to step.
    """
    size = _BYTES[dtype]
    policy = rung.mode.policy
    resident = dims.unet if policy.weights == "device" else 0
    frame = rung.width * rung.height
    return PeakMemory(
        condition=size
        * (resident + max(dims.encoder, dims.vae + _encode_values(dims, frame, policy))),
        denoise=_Denoising(rung, dims, size, guided, reuses).most(),
        decode=size * (resident + dims.vae + _decode_values(dims, frame, policy)),
    )


def required_memory(
    predicted: PeakMemory, mode: Mode, correction: float | None, *, gpu: bool
) -> int:
    """Return the bytes that must be free for a clip of this peak, margin included.

    `correction` is measured / predicted from earlier clips on this device, allocator overhead
    included. Without one, fixed allowances for a GPU's libraries and allocator are added.
    """
    factor, extra = _allowance(mode, correction, gpu=gpu)
    return int(predicted.most * factor) + extra


def largest_peak(free: int, mode: Mode, correction: float | None, *, gpu: bool) -> int:
    """Return the largest peak whose `required_memory` is at most `free`."""
    factor, extra = _allowance(mode, correction, gpu=gpu)
    return max(0, int((free - extra) / factor))


def _allowance(mode: Mode, correction: float | None, *, gpu: bool) -> tuple[float, int]:
    """Return (factor, bytes): the peak times the factor plus the bytes must be free."""
    if correction is not None:
        return correction * _MARGIN, 0
    if not gpu:
        return _MARGIN, 0
    return (_UNCHUNKED_MARGIN if mode.policy.chunk is None else _MARGIN), _WORKSPACE_BYTES


def bytes_of(dtype: str) -> int:
    """Return the bytes of one value."""
    return _BYTES[dtype]


def _encode_values(dims: ModelDimensions, frame: int, policy: MemoryPolicy) -> int:
    """Return the live values while the VAE encodes a frame of `frame` pixels.

    Whole: two inputs, norm, activation and result of the first resnet. Tiled: a resnet's input,
    which takes its result too, and its middle; of one tile two of norm, activation and padding.
    """
    width = dims.vae_channels[0]
    if policy.vae_tiling:
        return 2 * width * frame + 2 * width * min(frame, VAE_TILE_PIXELS)
    return 5 * width * frame


def _decode_values(dims: ModelDimensions, frame: int, policy: MemoryPolicy) -> int:
    """Return the live values while the VAE decodes frames of `frame` pixels.

    Whole: input, norm and activation of the last block's first resnet. Tiled: its input, middle
    and result, or before it the last upsampler's block input, input and result; and of one tile
    two of norm, activation, padding and convolution.
    """
    finest, finer, fine = (*dims.vae_channels, *dims.vae_channels[-1:] * 2)[:3]
    if not policy.vae_tiling:
        cells = frame // dims.factor**2
        frames = max(1, policy.decoded // cells)
        return frames * frame * 3 * finer
    tile = min(frame, VAE_TILE_PIXELS)
    several = frame if frame > tile else 0
    first = finer * frame + finest * several + 2 * finer * tile
    second = (finer + finest + (finest if finest != finer else 0)) * frame + 2 * finest * tile
    upsampler = (finer + fine) * frame // 4 + finer * several + 2 * finer * tile
    return max(first, second, upsampler)


@dataclass(frozen=True)
class _Denoising:
    """Peak of one step of the UNet. `size`: bytes of a value."""

    rung: Rung
    dims: ModelDimensions
    size: int
    guided: bool
    reuses: bool

    @property
    def _clips(self) -> int:
        return 2 if self.guided and not self.rung.mode.policy.sequential_cfg else 1

    def _sides(self, level: int) -> tuple[int, int]:
        """Return height and width of a level in cells."""
        step = self.dims.factor * 2**level
        return self.rung.height // step, self.rung.width // step

    def _cells(self, level: int) -> int:
        """Return the cells of a level in all frames and concurrent guidance branches."""
        height, width = self._sides(level)
        return self._clips * self.rung.frames * height * width

    def most(self) -> int:
        """Return the peak bytes of the UNet, weights included."""
        return max(self._weights(level) + self.size * values for level, values in self._moments())

    def _weights(self, level: int) -> int:
        """Return the bytes of weights on the device while a level runs."""
        dims = self.dims
        match self.rung.mode.policy.weights:
            case "device":
                return self.size * dims.unet
            case "float8":
                eighth = dims.unet - dims.unet_outside
                return eighth + self.size * (dims.unet_outside + dims.pieces[level])
            case "host":
                return self.size * (dims.unet_outside + dims.pieces[level])

    def _moments(self) -> Iterator[tuple[int, int]]:
        """Yield level and live values of each moment that can be the peak.

        Always live: the latents, the picture's latents, the UNet's copies of both, and the
        context, keys and values of cross-attention. The first transformer runs once for both
        guidance branches. A feature cache keeps deep features; with sequential guidance, also
        those of the idle branch.
        """
        dims = self.dims
        branches = 2 if self.guided else 1
        base = 24 * self._cells(0) + _CONTEXT_TOKENS * branches * (
            dims.context + 2 * self._cross_attention_width()
        )
        cells = self._cells(0) // self._clips
        kept = dims.channels[min(1, len(dims.channels) - 1)] * cells if self.reuses else 0
        inside = min(self._chunk_cells(0), cells)
        transformer_in = dims.channels[0] * cells + self._transformer(dims.transformer_in, inside)
        yield 0, base + branches * kept + transformer_in
        base += (branches - self._clips) * kept
        for level in range(len(dims.channels)):
            for values in self._level(level):
                yield level, base + values

    def _level(self, level: int) -> Iterator[int]:
        """Yield the live values in an up block's first layer; down blocks need less.

        Live there: the skip connections of this and all finer levels, and the block's input.
        """
        dims, policy, cells = self.dims, self.rung.mode.policy, self._cells(level)
        width = dims.channels[level]
        incoming = dims.channels[min(level + 1, len(dims.channels) - 1)]
        both = incoming + width
        base = sum(map(self._skip_values, range(level + 1))) + incoming * cells
        chunk = self._chunk_cells(level)
        if policy.chunk is None:  # concatenated with the skip, its norm, its convolution
            yield base + (2 * both + width) * cells
        else:  # concatenated, the result; of one chunk norm and activation
            yield base + (both + width) * cells + 2 * both * chunk
            yield base + 2 * width * cells + 3 * width * chunk  # temporal convolution
            if level:  # the upsampler: input, result; of one chunk enlarged, convolved
                yield base + width * cells + 4 * width * cells + 8 * width * chunk
        if dims.attends[level]:
            yield base + width * cells + self._transformer(width, chunk)

    def _cross_attention_width(self) -> int:
        """Return the summed widths of all cross-attention layers, the mid block included."""
        dims = self.dims
        widths = (w for w, attends in zip(dims.channels, dims.attends, strict=True) if attends)
        return (2 * dims.layers + 1) * sum(widths) + dims.channels[-1]

    def _skip_values(self, level: int) -> int:
        """Return the values of a level's skip connections."""
        dims = self.dims
        first = dims.channels[max(0, level - 1)]
        return (first + dims.layers * dims.channels[level]) * self._cells(level)

    def _chunk_cells(self, level: int) -> int:
        """Return the cells of a level that a part processes at once."""
        every = self._cells(level)
        if (limit := self.rung.mode.policy.chunk) is None:
            return every
        height, width = self._sides(level)
        images = max(1, limit // (height * width)) * height * width
        rows = max(1, limit // (self.rung.frames * width)) * self.rung.frames * width
        return min(every, max(images, min(rows, every // self._clips)))

    def _transformer(self, width: int, tokens: int) -> int:
        """Return the live values of a transformer besides its input: attention or feed-forward.

        Attention whole: states, norm, queries, keys, values, attended; chunked also the previous
        result, a copy of the attended values, projected. Feed-forward: states and norm, chunked
        four of these, and of its rows eight and four times the width (projection, GEGLU); in
        several chunks the result too.
        """
        rows = min(tokens, self.rung.mode.policy.ff_chunk)
        attention, states = (6, 2) if self.rung.mode.policy.chunk is None else (9, 4)
        forward = (states + (tokens > rows)) * width * tokens + 12 * width * rows
        return max(attention * width * tokens, forward)
