"""Convolutions with fewer operations or fewer copies around them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional

from pipeline.worker.monkey_patch import Patches
from pipeline.worker.optimizations import fused_ops


def temporal_conv_as_matmul(network: nn.Module) -> Patches:
    """Patch temporal convolutions: a matrix product each for previous, same and next frame."""
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
            y = _temporal_conv(_norm_silu(norm, y), convolution).permute(0, 4, 1, 2, 3)
        return x + y.transpose(1, 2).flatten(0, 1)  # type: ignore[no-any-return]

    return forward


def _norm_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Normalise and activate (clips, channels, frames, height, width).

    Returns contiguous (clips, frames, height, width, channels).
    """
    return fused_ops.group_norm_silu(norm, x).permute(0, 2, 3, 4, 1).contiguous()


def _temporal_conv(x: Tensor, convolution: nn.Conv3d) -> Tensor:
    """Convolve (clips, frames, height, width, channels) over the frames, kernel size 3."""
    previous, same, following = convolution.weight[..., 0, 0].unbind(2)
    result = functional.linear(x, same, convolution.bias)
    for clip, out in zip(x, result, strict=True):
        out[1:].flatten(0, 2).addmm_(clip[:-1].flatten(0, 2), previous.T)
        out[:-1].flatten(0, 2).addmm_(clip[1:].flatten(0, 2), following.T)
    return result


def fused_resnets(network: nn.Module) -> Patches:
    """Patch resnet blocks to add and activate in place, without the division by 1.0."""
    found = (m for m in network.modules() if isinstance(m, ResnetBlock2D))
    return {m: partial(_resnet, m) for m in found}


def _resnet(module: ResnetBlock2D, x: Tensor, temb: Tensor | None = None) -> Tensor:
    y, bias = fused_ops.conv_without_bias(module.conv1, fused_ops.group_norm_silu(module.norm1, x))
    time = None if temb is None else module.time_emb_proj(functional.silu(temb))
    y, bias = fused_ops.conv_without_bias(
        module.conv2, fused_ops.group_norm_silu(module.norm2, y, _optional_sum(time, bias))
    )
    if module.conv_shortcut is not None:
        x, shortcut_bias = fused_ops.conv_without_bias(module.conv_shortcut, x)
        bias = _optional_sum(bias, shortcut_bias)
    return fused_ops.add_bias_residual(y, x, bias)


def _optional_sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Return the sum of the operands that are not None."""
    if one is None or other is None:
        return other if one is None else one
    return one + other


def subpixel_upsample(network: nn.Module) -> Patches:
    """Patch nearest upsampling + 3 x 3 convolution: 2 x 2 convolutions of the small map instead.

    Sub-pixel convolution (Shi et al. 2016): one kernel for each of the four phases of the output.
    Of three upsampled rows (or columns) under a 3 x 3 kernel two are equal, so that 4 / 9 of the
    multiplications remain.
    """
    return {m: _subpixel_upsample(m) for m in network.modules() if isinstance(m, Upsample2D)}


def _taps(device: torch.device) -> Tensor:
    """Return (9, 4 phases x 4): the taps of a 3 x 3 kernel that each tap of a phase sums.

    Computed on the device, because a copy from the host would synchronise with it.
    """
    phase, tap, position = (torch.arange(n, device=device) for n in (2, 3, 2))
    rows = ((tap[:, None] + 1 - phase[:, None, None]) // 2 == position).float()
    return torch.einsum("ptr,qsc->tspqrc", rows, rows).reshape(9, 16)


def _subpixel_upsample(module: Upsample2D) -> Callable[..., Tensor]:
    def forward(x: Tensor, output_size: None = None, *_: Any) -> Tensor:
        height, width = x.shape[-2:]
        kernels = phase_kernels(module.conv.weight)
        y = functional.conv2d(x, kernels, padding=1)
        y = y.reshape(len(y), 2, 2, -1, *y.shape[2:])  # n, row phase, column phase, channel, .
        upsampled = x.new_empty(len(x), height, 2, width, 2, y.shape[3])
        for row in (0, 1):
            for column in (0, 1):
                part = y[:, row, column, :, row : row + height, column : column + width]
                upsampled[:, :, row, :, column] = part.permute(0, 2, 3, 1)
        upsampled = upsampled.view(len(x), 2 * height, 2 * width, -1)
        upsampled += module.conv.bias
        return upsampled.permute(0, 3, 1, 2)

    return forward


def phase_kernels(weight: Tensor) -> Tensor:
    """Convert (out, in, 3, 3) to (4 out, in, 2, 2): the kernels of the four phases.

    Matrix products sum in float32 and round once. The kernels are computed in each forward, because
    they would take more memory than the weights themselves.
    """
    out, into = weight.shape[:2]
    kernels = weight.new_empty(4, out, into, 4)
    taps = _taps(weight.device).to(weight.dtype)
    for phase, kernel in enumerate(kernels):
        torch.matmul(weight.flatten(2), taps[:, 4 * phase : 4 * phase + 4], out=kernel)
    return kernels.view(4 * out, into, 2, 2)


def fused_group_norms(network: nn.Module) -> Patches:
    """Patch all group normalisations; other patches may override those of their modules."""
    return {
        m: partial(fused_ops.group_norm, m)
        for m in network.modules()
        if isinstance(m, nn.GroupNorm)
    }


def channels_last(network: nn.Module) -> Patches:
    """Patch the first convolution to return channels_last, which later layers preserve."""
    modules = network.named_modules()
    return {m: _channels_last(m) for name, m in modules if name.split(".")[-1] == "conv_in"}


def _channels_last(first: nn.Module) -> Callable[..., Tensor]:
    def forward(x: Tensor) -> Tensor:
        y: Tensor = type(first).forward(first, x)
        return y.contiguous(memory_format=torch.channels_last)

    return forward
