"""VAE tiling without seams: resnets and resamplers process a frame in tiles of full rows.

diffusers' tiling decodes tiles separately and blends them, which changes the picture because each
tile has its own statistics. Here group normalisation uses the statistics of the whole frame, and
each convolution reads the rows next to its tile. The result is the same up to rounding.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional

from pipeline.worker.memory.group_norm import gather, normalise
from pipeline.worker.monkey_patch import Patches


def tile_vae(vae: nn.Module, pixels: int) -> Patches:
    """Patch resnets and resamplers to take at most `pixels` positions at once, at least one row.

    For one frame at a time. A VAE never reuses an input of these modules, so a resnet with equal
    numbers of channels overwrites its input.
    """
    patches: dict[nn.Module, Callable[..., Tensor]] = {}
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            patches[module] = _resnet(module, pixels)
        elif isinstance(module, Upsample2D):
            patches[module] = _upsample(module, pixels)
        elif isinstance(module, Downsample2D):
            patches[module] = _downsample(module, pixels)
    return patches


def _resnet(module: ResnetBlock2D, pixels: int) -> Callable[..., Tensor]:
    def norm_silu(x: Tensor, norm: nn.GroupNorm) -> Callable[[int, int], Tensor]:
        statistics = gather(x, norm)
        return lambda top, bottom: functional.silu(
            normalise(x[..., top:bottom, :], norm, statistics)
        )

    def forward(x: Tensor, temb: None = None) -> Tensor:
        size = x.shape[-2:]
        middle = _convolve(norm_silu(x, module.norm1), module.conv1, size, pixels)
        rows = norm_silu(middle, module.norm2)
        result = x
        if module.conv_shortcut is not None:
            result = torch.empty_like(middle)
            for top, bottom in _tiles(size, pixels):
                result[..., top:bottom, :] = module.conv_shortcut(x[..., top:bottom, :])
        return _convolve(rows, module.conv2, size, pixels, add_to=result)

    return forward


def _convolve(
    rows: Callable[[int, int], Tensor],
    convolution: nn.Conv2d,
    size: Sequence[int],
    pixels: int,
    *,
    add_to: Tensor | None = None,
) -> Tensor:
    """Convolve a map of `size` (height, width) by 3 x 3; `rows(top, bottom)` returns its rows."""
    result = add_to

    def convolve_tile(top: int, bottom: int) -> Tensor:
        above, below = min(1, top), min(1, size[0] - bottom)
        padded = functional.pad(rows(top - above, bottom + below), (1, 1, 1 - above, 1 - below))
        return functional.conv2d(padded, convolution.weight, convolution.bias)

    for top, bottom in _tiles(size, pixels):
        part = convolve_tile(top, bottom)
        if result is None:
            result = part.new_empty((*part.shape[:2], *size))
        if add_to is None:
            result[..., top:bottom, :] = part
        else:
            result[..., top:bottom, :] += part
        del part
    assert result is not None
    return result


def _upsample(module: Upsample2D, pixels: int) -> Callable[..., Tensor]:
    def forward(x: Tensor, size: None = None) -> Tensor:
        def rows(top: int, bottom: int) -> Tensor:
            first = top // 2
            upsampled = functional.interpolate(
                x[..., first : (bottom + 1) // 2, :], scale_factor=2.0
            )
            return upsampled[..., top - 2 * first : bottom - 2 * first, :]

        return _convolve(rows, module.conv, (2 * x.shape[-2], 2 * x.shape[-1]), pixels)

    return forward


def _downsample(module: Downsample2D, pixels: int) -> Callable[..., Tensor]:
    """Stride-2 convolution with one row and column of zeros below and to the right."""

    def forward(x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        parts = []
        for top, bottom in _tiles((height // 2, width // 2), pixels):
            last = min(2 * bottom + 1, height)
            padded = functional.pad(x[..., 2 * top : last, :], (0, 1, 0, 2 * bottom + 1 - last))
            conv = module.conv
            parts.append(functional.conv2d(padded, conv.weight, conv.bias, stride=2))
        return torch.cat(parts, dim=-2)

    return forward


def _tiles(size: Sequence[int], pixels: int) -> Iterator[tuple[int, int]]:
    height, width = size
    step = max(1, pixels // width)
    return ((top, min(top + step, height)) for top in range(0, height, step))
