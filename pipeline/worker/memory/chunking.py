"""Transforms of the UNet that spare memory and keep its result, up to rounding.

Each makes forwards that stand in for those of unmodified diffusers modules; `patched` puts them
there for a while. What sees each frame alone goes some frames at a time; what sees each pixel alone
over all frames goes some rows at a time. Where nobody else needs a module's input, as after every
resnet of a block, the result takes its place.
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
from pipeline.worker.patch import Patches


def chunk_feed_forward(network: nn.Module, rows: int) -> Patches:
    """Every feed-forward takes at most `rows` vectors at once, whatever the sequence's length."""

    def chunked(module: FeedForward) -> Callable[..., Tensor]:
        whole = module.forward

        def forward(x: Tensor) -> Tensor:
            if x[..., 0].numel() <= rows:
                return whole(x)  # type: ignore[no-any-return]
            flat = x.flatten(0, -2)
            pieces = (slice(at, at + rows) for at in range(0, len(flat), rows))
            result: Tensor = _gathered(pieces, len(flat), lambda piece: whole(flat[piece]))
            return result.view(*x.shape[:-1], result.shape[-1])

        return forward

    return {m: chunked(m) for m in network.modules() if isinstance(m, FeedForward)}


def chunk_frames(network: nn.Module, cells: int) -> Patches:
    """What sees each image alone takes at most `cells` cells at once, and at least one image."""
    made: dict[nn.Module, Callable[..., Any]] = {}
    for module in network.modules():
        if isinstance(module, ResnetBlock2D):
            made[module] = _resnet(module, cells)
        elif isinstance(module, Transformer2DModel):
            made[module] = _transformer(module, cells)
        elif isinstance(module, (Downsample2D, Upsample2D)):
            made[module] = _resample(module, cells)
    return made


def _resnet(module: ResnetBlock2D, cells: int) -> Callable[..., Tensor]:
    whole = module.forward

    def forward(x: Tensor, temb: Tensor) -> Tensor:
        return _gathered(_some(x, cells), len(x), lambda n: whole(x[n], _of(temb, n)))

    return forward


def _transformer(module: Transformer2DModel, cells: int) -> Callable[..., tuple[Tensor]]:
    whole = module.forward

    def forward(x: Tensor, *, encoder_hidden_states: Tensor, **rest: Any) -> tuple[Tensor]:
        for n in _some(x, cells):
            x[n] = whole(x[n], encoder_hidden_states=_of(encoder_hidden_states, n), **rest)[0]
        return (x,)

    return forward


def _resample(module: nn.Module, cells: int) -> Callable[..., Tensor]:
    whole: Callable[..., Tensor] = module.forward

    def forward(x: Tensor, *size: Any) -> Tensor:
        return _gathered(_some(x, cells), len(x), lambda n: whole(x[n], *size))

    return forward


def chunk_pixels(network: nn.Module, cells: int) -> Patches:
    """What sees each pixel alone over time takes at most `cells` cells, and at least one row."""
    made: dict[nn.Module, Callable[..., Any]] = {}
    for module in network.modules():
        if isinstance(module, TransformerTemporalModel):
            made[module] = _temporal_transformer(module, cells)
        elif isinstance(module, TemporalConvLayer):
            made[module] = _temporal_convolutions(module, cells)
    return made


def _temporal_transformer(
    module: TransformerTemporalModel, cells: int
) -> Callable[..., tuple[Tensor]]:
    def forward(x: Tensor, *, num_frames: int, **_: Any) -> tuple[Tensor]:
        for begin in range(0, len(x), num_frames):
            clip = x[begin : begin + num_frames]
            statistics = gather(clip, module.norm)
            for rows in _rows(clip, cells):
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
    """Its four convolutions mix frames, not pixels: within a row each can overwrite its input."""
    steps = [(c[0], c[-1]) for c in (module.conv1, module.conv2, module.conv3, module.conv4)]

    def forward(x: Tensor, num_frames: int) -> Tensor:
        for begin in range(0, len(x), num_frames):
            clip = x[begin : begin + num_frames]
            deep = torch.empty_like(clip)
            source = clip
            for norm, convolution in steps:
                statistics = gather(source, norm)
                for rows in _rows(clip, cells):
                    y = functional.silu(normalise(source[:, :, rows], norm, statistics))
                    y = convolution(y.transpose(0, 1)[None])
                    deep[:, :, rows] = y[0].transpose(0, 1)
                source = deep
            clip.add_(deep)
        return x

    return forward


def _gathered(pieces: Iterator[slice], length: int, work: Callable[[slice], Tensor]) -> Tensor:
    """The results of all pieces along the first dimension, without a second copy of them."""
    result: Tensor | None = None
    for piece in pieces:
        part = work(piece)
        if piece.start == 0 and piece.stop >= length:
            return part
        if result is None:
            result = part.new_empty((length, *part.shape[1:]))
        result[piece] = part
        del part
    assert result is not None
    return result


def _of(told: Tensor, images: slice) -> Tensor:
    """What some images are told, of a row for each; a single row is for all."""
    return told if len(told) == 1 else told[images]


def _some(x: Tensor, cells: int) -> Iterator[slice]:
    """Slices of images (n, channels, height, width)."""
    step = max(1, cells // (x.shape[-2] * x.shape[-1]))
    return (slice(at, at + step) for at in range(0, len(x), step))


def _rows(clip: Tensor, cells: int) -> Iterator[slice]:
    """Slices of the rows of a clip (frames, channels, height, width)."""
    step = max(1, cells // (clip.shape[0] * clip.shape[-1]))
    return (slice(at, at + step) for at in range(0, clip.shape[-2], step))
