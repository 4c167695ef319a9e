"""Convolutions with less work or fewer copies around them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional

from pipeline.worker.optimizations import fused_ops
from pipeline.worker.patch import Patches


def temporal_conv_as_matmul(network: nn.Module) -> Patches:
    """Temporal convolutions as three products, each of the frames one earlier, the same, later."""
    return {
        m: _temporal_conv_as_matmul(m)
        for m in network.modules()
        if isinstance(m, TemporalConvLayer)
    }


def _temporal_conv_as_matmul(module: TemporalConvLayer) -> Callable[..., Tensor]:
    steps = [(c[0], c[-1]) for c in (module.conv1, module.conv2, module.conv3, module.conv4)]

    def forward(x: Tensor, num_frames: int) -> Tensor:
        clips = x.unflatten(0, (-1, num_frames)).transpose(1, 2)  # type: ignore[no-untyped-call]
        y = clips
        for norm, convolution in steps:
            y = _products(_activated(norm, y), convolution).permute(0, 4, 1, 2, 3)
        return x + y.transpose(1, 2).flatten(0, 1)  # type: ignore[no-any-return]

    return forward


def _activated(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """(clips, channels, frames, height, width) with the channels last, whole in memory."""
    return fused_ops.group_norm_silu(norm, x).permute(0, 2, 3, 4, 1).contiguous()


def _products(x: Tensor, convolution: nn.Conv3d) -> Tensor:
    """(clips, frames, height, width, channels) convolved over the frames."""
    before, at, after = convolution.weight[..., 0, 0].unbind(2)
    result = functional.linear(x, at, convolution.bias)
    for one, its in zip(x, result, strict=True):
        its[1:].flatten(0, 2).addmm_(one[:-1].flatten(0, 2), before.T)
        its[:-1].flatten(0, 2).addmm_(one[1:].flatten(0, 2), after.T)
    return result


def fused_resnets(network: nn.Module) -> Patches:
    """Resnets that add and activate in place, and divide by nothing."""
    found = (m for m in network.modules() if isinstance(m, ResnetBlock2D))
    return {m: partial(_resnet, m) for m in found}


def _resnet(module: ResnetBlock2D, x: Tensor, temb: Tensor | None = None) -> Tensor:
    y, late = fused_ops.convolved(module.conv1, fused_ops.group_norm_silu(module.norm1, x))
    time = None if temb is None else module.time_emb_proj(functional.silu(temb))
    y, late = fused_ops.convolved(
        module.conv2, fused_ops.group_norm_silu(module.norm2, y, _both(time, late))
    )
    if module.conv_shortcut is not None:
        x, more = fused_ops.convolved(module.conv_shortcut, x)
        late = _both(late, more)
    return fused_ops.add_bias_residual(y, x, late)


def _both(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """The sum of what is there."""
    if one is None or other is None:
        return other if one is None else one
    return one + other


def subpixel_upsample(network: nn.Module) -> Patches:
    """Upsamplers that convolve the small map: each of four phases sees two by two of its places.

    Of the three rows (and columns) under a kernel two are copies of one and the same: 4 / 9 of the
    products are left.
    """
    return {m: _subpixel_upsample(m) for m in network.modules() if isinstance(m, Upsample2D)}


def _taps(device: torch.device) -> Tensor:
    """(9, 4 phases x 4): which of a kernel's nine taps each phase adds up at its four places.

    Made on the device, which copies from the host would make wait.
    """
    phase, tap, place = (torch.arange(n, device=device) for n in (2, 3, 2))
    rows = ((tap[:, None] + 1 - phase[:, None, None]) // 2 == place).float()
    return torch.einsum("ptr,qsc->tspqrc", rows, rows).reshape(9, 16)


def _subpixel_upsample(module: Upsample2D) -> Callable[..., Tensor]:
    def forward(x: Tensor, output_size: None = None, *_: Any) -> Tensor:
        height, width = x.shape[-2:]
        kernels = kernels_of(module.conv.weight)
        y = functional.conv2d(x, kernels, padding=1)
        y = y.reshape(len(y), 2, 2, -1, *y.shape[2:])  # n, row phase, column phase, channel, .
        big = x.new_empty(len(x), height, 2, width, 2, y.shape[3])
        for row in (0, 1):
            for column in (0, 1):
                part = y[:, row, column, :, row : row + height, column : column + width]
                big[:, :, row, :, column] = part.permute(0, 2, 3, 1)
        big = big.view(len(x), 2 * height, 2 * width, -1)
        big += module.conv.bias
        return big.permute(0, 3, 1, 2)

    return forward


def kernels_of(weight: Tensor) -> Tensor:
    """(out, in, 3, 3) -> (4 out, in, 2, 2): the kernels of the four phases.

    As products, whose sums are made in float32 and rounded once. They are made anew each time, for
    kept they would be more than the weights themselves.
    """
    out, into = weight.shape[:2]
    kernels = weight.new_empty(4, out, into, 4)
    taps = _taps(weight.device).to(weight.dtype)
    for phase, kernel in enumerate(kernels):
        torch.matmul(weight.flatten(2), taps[:, 4 * phase : 4 * phase + 4], out=kernel)
    return kernels.view(4 * out, into, 2, 2)


def fused_group_norms(network: nn.Module) -> Patches:
    """Group normalisations that no other transform takes."""
    return {
        m: partial(fused_ops.group_norm, m)
        for m in network.modules()
        if isinstance(m, nn.GroupNorm)
    }


def channels_last(network: nn.Module) -> Patches:
    """What comes out of a first convolution has its channels last in memory, and all after it."""
    named = network.named_modules()
    return {m: _channels_last(m) for name, m in named if name.split(".")[-1] == "conv_in"}


def _channels_last(first: nn.Module) -> Callable[..., Tensor]:
    def forward(x: Tensor) -> Tensor:
        y: Tensor = type(first).forward(first, x)
        return y.contiguous(memory_format=torch.channels_last)

    return forward
