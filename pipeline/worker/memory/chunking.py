"""Forward chunking: process frames or pixels in chunks to lower peak memory.

The patches are for unmodified diffusers modules (see `patch.patched`) and keep their result, up to
rounding. Spatial modules take some frames at a time. Temporal modules take some rows of all frames
at a time. If no other module needs an input, as within a block, the result overwrites it.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional

from pipeline.worker.memory.group_norm import gather, normalise
from pipeline.worker.monkey_patch import Patches


def chunk_feed_forward(network: nn.Module, rows: int) -> Patches:
    """Patch feed-forwards to take at most `rows` tokens at once, as diffusers' forward chunking."""

    def chunked(module: FeedForward) -> Callable[..., Tensor]:
        original = module.forward

        def forward(x: Tensor) -> Tensor:
            if x[..., 0].numel() <= rows:
                return original(x)  # type: ignore[no-any-return]
            flat = x.flatten(0, -2)
            chunks = (slice(at, at + rows) for at in range(0, len(flat), rows))
            result: Tensor = _run_chunks(chunks, len(flat), lambda chunk: original(flat[chunk]))
            return result.view(*x.shape[:-1], result.shape[-1])

        return forward

    return {m: chunked(m) for m in network.modules() if isinstance(m, FeedForward)}


def chunk_frames(network: nn.Module, cells: int) -> Patches:
    """Patch spatial modules to take at most `cells` latent pixels at once, at least one image."""
    patches: dict[nn.Module, Callable[..., Any]] = {}
    for module in network.modules():
        if isinstance(module, ResnetBlock2D):
            patches[module] = _resnet(module, cells)
        elif isinstance(module, Transformer2DModel):
            patches[module] = _transformer(module, cells)
        elif isinstance(module, (Downsample2D, Upsample2D)):
            patches[module] = _resample(module, cells)
    return patches


def _resnet(module: ResnetBlock2D, cells: int) -> Callable[..., Tensor]:
    original = module.forward

    def forward(x: Tensor, temb: Tensor) -> Tensor:
        return _run_chunks(
            _image_chunks(x, cells), len(x), lambda n: original(x[n], _context_rows(temb, n))
        )

    return forward


def _transformer(module: Transformer2DModel, cells: int) -> Callable[..., tuple[Tensor]]:
    original = module.forward

    def forward(x: Tensor, *, encoder_hidden_states: Tensor, **rest: Any) -> tuple[Tensor]:
        for n in _image_chunks(x, cells):
            x[n] = original(
                x[n], encoder_hidden_states=_context_rows(encoder_hidden_states, n), **rest
            )[0]
        return (x,)

    return forward


def _resample(module: nn.Module, cells: int) -> Callable[..., Tensor]:
    original: Callable[..., Tensor] = module.forward

    def forward(x: Tensor, *size: Any) -> Tensor:
        return _run_chunks(_image_chunks(x, cells), len(x), lambda n: original(x[n], *size))

    return forward


def chunk_pixels(network: nn.Module, cells: int) -> Patches:
    """Patch temporal modules to take at most `cells` latent pixels at once, at least one row."""
    patches: dict[nn.Module, Callable[..., Any]] = {}
    for module in network.modules():
        if isinstance(module, TransformerTemporalModel):
            patches[module] = _temporal_transformer(module, cells)
        elif isinstance(module, TemporalConvLayer):
            patches[module] = _temporal_convolutions(module, cells)
    return patches


def _temporal_transformer(
    module: TransformerTemporalModel, cells: int
) -> Callable[..., tuple[Tensor]]:
    def forward(x: Tensor, *, num_frames: int, **_: Any) -> tuple[Tensor]:
        for begin in range(0, len(x), num_frames):
            clip = x[begin : begin + num_frames]
            statistics = gather(clip, module.norm)
            for rows in _row_chunks(clip, cells):
                strip = clip[:, :, rows]
                frames, channels, height, width = strip.shape
                y = normalise(strip, module.norm, statistics)
                y = y.permute(2, 3, 0, 1).reshape(height * width, frames, channels)
                y = module.proj_in(y)
                for block in module.transformer_blocks:
                    y = block(y)
                y = module.proj_out(y)
                strip += y.reshape(height, width, frames, channels).permute(2, 3, 0, 1)
        return (x,)

    return forward


def _temporal_convolutions(module: TemporalConvLayer, cells: int) -> Callable[..., Tensor]:
    """Run the four convolutions in place: they mix frames, not pixels, so rows are independent."""
    steps = [(c[0], c[-1]) for c in (module.conv1, module.conv2, module.conv3, module.conv4)]

    def forward(x: Tensor, num_frames: int) -> Tensor:
        for begin in range(0, len(x), num_frames):
            clip = x[begin : begin + num_frames]
            hidden = torch.empty_like(clip)
            source = clip
            for norm, convolution in steps:
                statistics = gather(source, norm)
                for rows in _row_chunks(clip, cells):
                    y = functional.silu(normalise(source[:, :, rows], norm, statistics))
                    y = convolution(y.transpose(0, 1)[None])
                    hidden[:, :, rows] = y[0].transpose(0, 1)
                source = hidden
            clip.add_(hidden)
        return x

    return forward


def _run_chunks(chunks: Iterator[slice], length: int, run: Callable[[slice], Tensor]) -> Tensor:
    """Concatenate the results of all chunks along the first dimension, without a second copy."""
    result: Tensor | None = None
    for chunk in chunks:
        part = run(chunk)
        if chunk.start == 0 and chunk.stop >= length:
            return part
        if result is None:
            result = part.new_empty((length, *part.shape[1:]))
        result[chunk] = part
        del part
    assert result is not None
    return result


def _context_rows(context: Tensor, images: slice) -> Tensor:
    """Return the rows of a context for some images; a single row is for all images."""
    return context if len(context) == 1 else context[images]


def _image_chunks(x: Tensor, cells: int) -> Iterator[slice]:
    """Yield slices of images (images, channels, height, width)."""
    step = max(1, cells // (x.shape[-2] * x.shape[-1]))
    return (slice(at, at + step) for at in range(0, len(x), step))


def _row_chunks(clip: Tensor, cells: int) -> Iterator[slice]:
    """Yield slices of the rows of a clip (frames, channels, height, width)."""
    step = max(1, cells // (clip.shape[0] * clip.shape[-1]))
    return (slice(at, at + step) for at in range(0, clip.shape[-2], step))
