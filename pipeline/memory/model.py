"""The memory model: the most that lives on the device at once while a clip is made.

For each stage the moments that can be its worst are written down as sums of the tensors that live
then, in values per latent cell or per pixel. Which moments those are, and which tensors live, was
read off counts of the worker's own code (`python -m tests.bench.memory_count --tensors`), which a
test repeats. Fragmentation and the libraries' work space are not in it: `need` allows for
them, and takes what was measured into account where its caller knows it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.memory.dimensions import ModelDimensions
from pipeline.memory.modes import VAE_TILE_PIXELS, MemoryPolicy, Mode, Rung
from pipeline.request.sampling_plan import sampling_plan
from pipeline.request.spec import Spec

_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
_GLANCE = 145
"""What each frame looks at in cross-attention: 77 tokens of text, 64 + 4 of the picture."""

_MARGIN = 1.05
"""The formula's own error, which a test holds."""
_WORK_SPACE = 300_000_000
"""Bytes on a GPU for the libraries' work space and for fragmentation, on top of a peak."""
_WHOLE = 1.16
"""In place of the margin on a GPU where a clip is not cut in slices: both grow with its tensors.

As was measured on an H200, which a test holds.
"""


class PeakMemory(NamedTuple):
    """Bytes that live at once, at most, in each stage."""

    encode: int
    denoise: int
    decode: int

    @property
    def most(self) -> int:
        """Of the whole attempt."""
        return max(self)


def peak_memory(spec: Spec, rung: Rung, anatomy: ModelDimensions, dtype: str) -> PeakMemory:
    """Predicted for a clip of this Spec on this rung."""
    return peak(
        rung, anatomy, dtype, guided=spec.guided, reuses=sampling_plan(spec).reuses_features
    )


def peak(
    rung: Rung, anatomy: ModelDimensions, dtype: str, *, guided: bool, reuses: bool = False
) -> PeakMemory:
    """Predicted for a clip on this rung.

    `guided` when guidance is over 1; `reuses` when deep features are kept from step to step.
    """
    size = _BYTES[dtype]
    thrift = rung.mode.policy
    staying = anatomy.unet if thrift.weights == "device" else 0
    frame = rung.width * rung.height
    return PeakMemory(
        encode=size
        * (staying + max(anatomy.encoder, anatomy.vae + _framed(anatomy, frame, thrift))),
        denoise=_Denoising(rung, anatomy, size, guided, reuses).most(),
        decode=size * (staying + anatomy.vae + _unframed(anatomy, frame, thrift)),
    )


def required_memory(
    predicted: PeakMemory, mode: Mode, correction: float | None, *, gpu: bool
) -> int:
    """Bytes that must be free for a clip of this peak, margin included.

    `correction` is measured / predicted, as it was found here before, with all that a device's
    allocator adds; before there is one, a GPU's libraries and allocator are allowed for.
    """
    times, more = _allowed(mode, correction, gpu=gpu)
    return int(predicted.most * times) + more


def largest_peak(room: int, mode: Mode, correction: float | None, *, gpu: bool) -> int:
    """The most bytes that a peak may have for `need` to be no more than `room`."""
    times, more = _allowed(mode, correction, gpu=gpu)
    return max(0, int((room - more) / times))


def _allowed(mode: Mode, correction: float | None, *, gpu: bool) -> tuple[float, int]:
    """How many times the peak, and how many bytes more."""
    if correction is not None:
        return correction * _MARGIN, 0
    if not gpu:
        return _MARGIN, 0
    return (_WHOLE if mode.policy.chunk is None else _MARGIN), _WORK_SPACE


def bytes_of(dtype: str) -> int:
    """Of one value."""
    return _BYTES[dtype]


def _framed(anatomy: ModelDimensions, frame: int, thrift: MemoryPolicy) -> int:
    """Values that live while the VAE encodes a frame of so many pixels.

    Whole: in its first resnet two inputs, norm, activation, result. In stripes: a resnet's input,
    which takes its result too, and its middle; of one stripe two among norm, activation, padding.
    """
    width = anatomy.vae_channels[0]
    if thrift.vae_tiling:
        return 2 * width * frame + 2 * width * min(frame, VAE_TILE_PIXELS)
    return 5 * width * frame


def _unframed(anatomy: ModelDimensions, frame: int, thrift: MemoryPolicy) -> int:
    """Values that live while the VAE decodes frames of so many pixels.

    Whole: in the last block's first resnet input, norm, activation. In stripes: there input, middle
    and result, or before it the last upsampler's block input, input and result; and of one stripe
    two among norm, activation, padding and convolution.
    """
    finest, finer, fine = (*anatomy.vae_channels, *anatomy.vae_channels[-1:] * 2)[:3]
    if not thrift.vae_tiling:
        cells = frame // anatomy.factor**2
        frames = max(1, thrift.decoded // cells)
        return frames * frame * 3 * finer
    stripe = min(frame, VAE_TILE_PIXELS)
    several = frame if frame > stripe else 0
    first = finer * frame + finest * several + 2 * finer * stripe
    second = (finer + finest + (finest if finest != finer else 0)) * frame + 2 * finest * stripe
    upsampler = (finer + fine) * frame // 4 + finer * several + 2 * finer * stripe
    return max(first, second, upsampler)


@dataclass(frozen=True)
class _Denoising:
    """One step of the UNet. `size`: bytes of a value."""

    rung: Rung
    anatomy: ModelDimensions
    size: int
    guided: bool
    reuses: bool

    @property
    def _clips(self) -> int:
        return 2 if self.guided and not self.rung.mode.policy.sequential_cfg else 1

    def _sides(self, level: int) -> tuple[int, int]:
        """Height and width of a level in cells."""
        step = self.anatomy.factor * 2**level
        return self.rung.height // step, self.rung.width // step

    def _cells(self, level: int) -> int:
        """Cells of all frames of a level."""
        height, width = self._sides(level)
        return self._clips * self.rung.frames * height * width

    def most(self) -> int:
        """Bytes at the worst moment of the UNet, with its weights."""
        return max(self._weights(level) + self.size * values for level, values in self._moments())

    def _weights(self, level: int) -> int:
        """Bytes of weights on the device while a level is at work."""
        its = self.anatomy
        match self.rung.mode.policy.weights:
            case "device":
                return self.size * its.unet
            case "float8":
                eighth = its.unet - its.unet_outside
                return eighth + self.size * (its.unet_outside + its.pieces[level])
            case "host":
                return self.size * (its.unet_outside + its.pieces[level])

    def _moments(self) -> Iterator[tuple[int, int]]:
        """Level and living values of each moment that can be the worst.

        Always there: the latents, the picture's latents and the UNet's own copies of both, what
        cross-attention looks at, and its keys and values. The first transformer works once for
        both branches of guidance. Deep features are kept when they are taken again; where the
        branches go one after the other, also those of the one while the other works.
        """
        its = self.anatomy
        branches = 2 if self.guided else 1
        always = 24 * self._cells(0) + _GLANCE * branches * (its.context + 2 * self._looking())
        cells = self._cells(0) // self._clips
        kept = its.channels[min(1, len(its.channels) - 1)] * cells if self.reuses else 0
        inside = min(self._slice(0), cells)
        entrance = its.channels[0] * cells + self._transformer(its.transformer_in, inside)
        yield 0, always + branches * kept + entrance
        always += (branches - self._clips) * kept
        for level in range(len(its.channels)):
            for values in self._level(level):
                yield level, always + values

    def _level(self, level: int) -> Iterator[int]:
        """Values at the moments of an up block's first layer; the way down is always cheaper.

        There live what every finer level left for it, what this level did, and the block's input.
        """
        its, thrift, cells = self.anatomy, self.rung.mode.policy, self._cells(level)
        width = its.channels[level]
        coming = its.channels[min(level + 1, len(its.channels) - 1)]
        both = coming + width
        waiting = sum(map(self._left, range(level + 1))) + coming * cells
        some = self._slice(level)
        if thrift.chunk is None:  # joined with what was left, its norm, the convolution of that
            yield waiting + (2 * both + width) * cells
        else:  # joined, the result; of one slice norm and activation
            yield waiting + (both + width) * cells + 2 * both * some
            yield waiting + 2 * width * cells + 3 * width * some  # temporal convolution
            if level:  # the upsampler: input, result; of one slice enlarged, convolved
                yield waiting + width * cells + 4 * width * cells + 8 * width * some
        if its.attends[level]:
            yield waiting + width * cells + self._transformer(width, some)

    def _looking(self) -> int:
        """The widths of all layers of cross-attention, those of the middle too."""
        its = self.anatomy
        widths = (w for w, attends in zip(its.channels, its.attends, strict=True) if attends)
        return (2 * its.layers + 1) * sum(widths) + its.channels[-1]

    def _left(self, level: int) -> int:
        """Values that the way down leaves for the way up at a level."""
        its = self.anatomy
        first = its.channels[max(0, level - 1)]
        return (first + its.layers * its.channels[level]) * self._cells(level)

    def _slice(self, level: int) -> int:
        """Cells of a level that go through a part at once."""
        every = self._cells(level)
        if (wanted := self.rung.mode.policy.chunk) is None:
            return every
        height, width = self._sides(level)
        images = max(1, wanted // (height * width)) * height * width
        rows = max(1, wanted // (self.rung.frames * width)) * self.rung.frames * width
        return min(every, max(images, min(rows, every // self._clips)))

    def _transformer(self, width: int, tokens: int) -> int:
        """Values in a transformer beside its input: in attention, or in the feed-forward.

        Attention whole: states, norm, queries, keys, values, attended; in slices also the last
        result, a copy of what was attended, projected. Feed-forward: states and norm, in slices
        four such, and of the rows at once eight and four times the width (projection, gate); in
        several chunks the result too.
        """
        rows = min(tokens, self.rung.mode.policy.ff_chunk)
        attention, states = (6, 2) if self.rung.mode.policy.chunk is None else (9, 4)
        forward = (states + (tokens > rows)) * width * tokens + 12 * width * rows
        return max(attention * width * tokens, forward)
