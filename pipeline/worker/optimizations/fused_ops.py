"""Memory-bound operations: normalisation, activation, bias-add, temporal attention.

On CUDA each runs as one Triton kernel, once `self_test` has shown that the kernels match PyTorch
on this device. Otherwise PyTorch is used, in place if that saves memory.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.worker.errors import first_line, is_device_lost, is_out_of_memory

_MAX_HEADS = (1 << 16) - 1
"""A CUDA kernel's grid has at most 65,535 blocks along the second dimension."""

_kernels: ModuleType | None = None


def enabled() -> bool:
    """Return True if the Triton kernels are in use."""
    return _kernels is not None


@contextmanager
def using(kernels: ModuleType | None) -> Iterator[None]:
    """Use these kernels within the context, or PyTorch if None."""
    global _kernels  # noqa: PLW0603 - a process has one device
    before, _kernels = _kernels, kernels
    try:
        yield
    finally:
        _kernels = before


def self_test(device: torch.device, dtype: torch.dtype) -> None:
    """Enable the Triton kernels if they match PyTorch on this device.

    On any mismatch or build error they stay disabled, and one line on stderr gives the reason.
    Out-of-memory and lost-device errors propagate.
    """
    global _kernels  # noqa: PLW0603
    try:
        from pipeline.worker.optimizations import triton_kernels

        _compare_with_torch(triton_kernels, device, dtype)
    except Exception as error:
        if is_out_of_memory(error) or is_device_lost(error):
            raise
        print(f"Triton kernels disabled, using PyTorch: {first_line(error)}", file=sys.stderr)
        return
    _kernels = triton_kernels


def _compare_with_torch(kernels: ModuleType, device: torch.device, dtype: torch.dtype) -> None:
    """Raise ArithmeticError if a kernel differs from PyTorch by more than rounding."""
    generator = torch.Generator(device).manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    images = noise(2, 320, 12, 20).contiguous(memory_format=torch.channels_last)
    norm = nn.GroupNorm(32, 320, device=device, dtype=dtype)
    rows = nn.LayerNorm(320, device=device, dtype=dtype)
    for weights in (norm, rows):
        weights.requires_grad_(False)
        weights.weight.add_(noise(320))
        weights.bias.add_(noise(320))
    tokens, residual, shift = noise(2, 8, 33, 320), noise(2, 8, 33, 320), noise(2, 320)
    qkv = noise(2, 8, 33, 3 * 320).chunk(3, dim=-1)
    cases: list[tuple[str, Callable[[], Tensor]]] = [
        ("group normalisation", lambda: group_norm_silu(norm, images.clone(), shift)),
        ("bias-add", lambda: add_bias_residual(images.clone(), images, norm.bias)),
        ("layer normalisation", lambda: add_layer_norm(tokens.clone(), residual, rows)),
        ("GEGLU", lambda: geglu(tokens.flatten(0, 2).clone())),
        ("temporal attention", lambda: temporal_attention(qkv, 5)),
    ]
    for name, run in cases:
        with using(None):
            expected = run().float()
        with using(kernels):
            actual = run().float()
        error = float((actual - expected).abs().max() / expected.abs().max())
        if not error <= _TOLERANCE[dtype]:
            raise ArithmeticError(f"{name} differs by {error:.1e} of the largest value")


_TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""Largest allowed difference to PyTorch, as a share of the largest value."""


def group_norm(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Return the group normalisation of (images, channels, ...)."""
    kernels = _kernels
    if kernels is None or not _channels_last(x):
        return functional.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    result: Tensor = kernels.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    return result


def group_norm_silu(norm: nn.GroupNorm, x: Tensor, shift: Tensor | None = None) -> Tensor:
    """Return silu(group_norm(x + shift)); may modify `x`.

    x: (images, channels, ...). shift: (channels,) or (images or 1, channels).
    """
    kernels = _kernels
    if shift is not None:
        shift = shift.view(-1, x.shape[1])
    if kernels is None or not _channels_last(x):
        if shift is not None:
            x += shift.view(*shift.shape, *(1,) * (x.ndim - 2))
        y = functional.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
        return functional.silu(y, inplace=True)
    result: Tensor = kernels.group_norm(
        x, norm.num_groups, norm.weight, norm.bias, norm.eps, activate=True, shift=shift
    )
    return result


def conv_without_bias(convolution: nn.Conv2d, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the convolution of `x`, and its bias if that is still to be added.

    cuDNN would add the bias in another pass over the result. The normalisation or sum that follows
    passes over it anyway.
    """
    if _kernels is None or not _channels_last(x):
        return convolution(x), None
    geometry = (convolution.stride, convolution.padding)
    return functional.conv2d(x, convolution.weight, None, *geometry), convolution.bias  # type: ignore[arg-type]


def add_bias_residual(x: Tensor, residual: Tensor, bias: Tensor | None) -> Tensor:
    """Add `residual` (same shape) and the bias of each channel to `x`, in place; return `x`."""
    kernels = _kernels
    if kernels is None or bias is None or not (_channels_last(x) and _channels_last(residual)):
        x += residual
        if bias is not None:
            x += bias.view(-1, *(1,) * (x.ndim - 2))
        return x
    kernels.add_bias_residual(x, residual, bias)
    return x


def layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Return the layer normalisation of (..., width)."""
    kernels = _kernels
    if kernels is None or not x.is_contiguous():
        return norm(x)  # type: ignore[no-any-return]
    result: Tensor = kernels.layer_norm(x, norm.weight, norm.bias, norm.eps)
    return result


def add_layer_norm(x: Tensor, residual: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Add `residual` to `x` in place, and return the layer normalisation of the sum."""
    kernels = _kernels
    if kernels is None or not (x.is_contiguous() and residual.is_contiguous()):
        x += residual
        return norm(x)  # type: ignore[no-any-return]
    result: Tensor = kernels.layer_norm(x, norm.weight, norm.bias, norm.eps, residual=residual)
    return result


def geglu(x: Tensor) -> Tensor:
    """Return the first half of each row of (rows, 2 width) times GELU of the second half.

    May modify `x`.
    """
    kernels = _kernels
    if kernels is None or not x.is_contiguous():
        values, gate = x.chunk(2, dim=-1)
        return values.mul_(functional.gelu(gate))
    result: Tensor = kernels.geglu(x)
    return result


def temporal_attention(qkv: Sequence[Tensor], heads: int) -> Tensor:
    """Attend over the frames, for each position and head separately.

    qkv: queries, keys and values, each (clips, frames, positions, channels). For PyTorch's kernel
    the positions are further heads, so that it reads the tokens without a copy.
    """
    kernels = _kernels
    if kernels is None or not _evenly_strided(qkv):
        clips, frames, _, channels = qkv[0].shape
        parts = (t.reshape(clips, frames, -1, channels // heads).transpose(1, 2) for t in qkv)
        return _attend_in_chunks(*parts).transpose(1, 2).reshape(qkv[0].shape)
    result: Tensor = kernels.temporal_attention(*qkv, heads)
    return result


def _attend_in_chunks(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend over (clips, heads, frames, width), in chunks of heads if a kernel cannot take all."""
    heads = queries.shape[1]
    if heads <= _MAX_HEADS:
        return functional.scaled_dot_product_attention(queries, keys, values)
    result = torch.empty_like(queries)
    step = max(1, _MAX_HEADS // 4)  # each chunk needs memory besides the result
    for first in range(0, heads, step):
        chunk = slice(first, first + step)
        result[:, chunk] = functional.scaled_dot_product_attention(
            queries[:, chunk], keys[:, chunk], values[:, chunk]
        )
    return result


def _channels_last(x: Tensor) -> bool:
    return x.movedim(1, -1).is_contiguous()


def _evenly_strided(qkv: Sequence[Tensor]) -> bool:
    """Return True if the distance between tokens in memory is constant, and equal in all three."""
    _, frames, positions, _ = qkv[0].shape
    token = qkv[0].stride(2)
    strides = (frames * positions * token, positions * token, token, 1)
    return all(each.stride() == strides for each in qkv)
