"""What is limited by memory, not by arithmetic: normalisation, activation, attention over frames.

On a GPU each is done by one of our own kernels, once those are proven there (`prove`); else by
torch, in place where that spares memory.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.worker.errors import first_line, is_device_lost, is_out_of_memory

_MOST_HEADS = (1 << 16) - 1
"""A CUDA kernel's grid has at most 65,535 places along this side."""

_kernels: ModuleType | None = None


def enabled() -> bool:
    """Whether our own kernels are at work here."""
    return _kernels is not None


@contextmanager
def using(kernels: ModuleType | None) -> Iterator[None]:
    """Within, these kernels are at work, or none."""
    global _kernels  # noqa: PLW0603 - a process has one device
    before, _kernels = _kernels, kernels
    try:
        yield
    finally:
        _kernels = before


def self_test(device: torch.device, dtype: torch.dtype) -> None:
    """Have our own kernels used from now on, if they do on this device what torch does.

    One line on stderr says why not, where they do not. Raises what lack of memory or a lost device
    raises.
    """
    global _kernels  # noqa: PLW0603
    try:
        from pipeline.worker.optimizations import triton_kernels

        _compare_with_torch(triton_kernels, device, dtype)
    except Exception as error:
        if is_out_of_memory(error) or is_device_lost(error):
            raise
        why = first_line(error)
        print(f"torch's own kernels are used, for ours do not work: {why}", file=sys.stderr)
        return
    _kernels = triton_kernels


def _compare_with_torch(kernels: ModuleType, device: torch.device, dtype: torch.dtype) -> None:
    """Raises ArithmeticError where a kernel differs from torch by more than rounding."""
    dice = torch.Generator(device).manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=dice, device=device).to(dtype)

    images = noise(2, 320, 12, 20).contiguous(memory_format=torch.channels_last)
    norm = nn.GroupNorm(32, 320, device=device, dtype=dtype)
    rows = nn.LayerNorm(320, device=device, dtype=dtype)
    for weights in (norm, rows):
        weights.requires_grad_(False)
        weights.weight.add_(noise(320))
        weights.bias.add_(noise(320))
    tokens, more, shift = noise(2, 8, 33, 320), noise(2, 8, 33, 320), noise(2, 320)
    three = noise(2, 8, 33, 3 * 320).chunk(3, dim=-1)
    cases: list[tuple[str, Callable[[], Tensor]]] = [
        ("group normalisation", lambda: group_norm_silu(norm, images.clone(), shift)),
        ("a sum", lambda: add_bias_residual(images.clone(), images, norm.bias)),
        ("layer normalisation", lambda: add_layer_norm(tokens.clone(), more, rows)),
        ("a gate", lambda: geglu(tokens.flatten(0, 2).clone())),
        ("attention over frames", lambda: temporal_attention(three, 5)),
    ]
    for name, work in cases:
        with using(None):
            plain = work().float()
        with using(kernels):
            given = work().float()
        off = float((given - plain).abs().max() / plain.abs().max())
        if not off <= _TOLERANCE[dtype]:
            raise ArithmeticError(f"{name} differs by {off:.1e} of the largest value")


_TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""Largest difference to torch, as a share of the largest value."""


def group_norm(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Group normalisation of (images, channels, ...)."""
    kernels = _kernels
    if kernels is None or not _channels_last(x):
        return functional.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    result: Tensor = kernels.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    return result


def group_norm_silu(norm: nn.GroupNorm, x: Tensor, added: Tensor | None = None) -> Tensor:
    """SiLU of a group normalisation of (images, channels, ...).

    `added`, (channels,) or (images or 1, channels), is first added to each image; x may be changed.
    """
    kernels = _kernels
    if added is not None:
        added = added.view(-1, x.shape[1])
    if kernels is None or not _channels_last(x):
        if added is not None:
            x += added.view(*added.shape, *(1,) * (x.ndim - 2))
        y = functional.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
        return functional.silu(y, inplace=True)
    result: Tensor = kernels.group_norm(
        x, norm.num_groups, norm.weight, norm.bias, norm.eps, activate=True, added=added
    )
    return result


def convolved(convolution: nn.Conv2d, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """A convolution, and its bias where that is still to be added.

    cuDNN would go over the whole result once more for it; who normalises or adds does so anyway.
    """
    if _kernels is None or not _channels_last(x):
        return convolution(x), None
    same = (convolution.stride, convolution.padding)
    return functional.conv2d(x, convolution.weight, None, *same), convolution.bias  # type: ignore[arg-type]


def add_bias_residual(x: Tensor, more: Tensor, bias: Tensor | None) -> Tensor:
    """Add to x, in x, `more` of the same shape, and to each channel its bias."""
    kernels = _kernels
    if kernels is None or bias is None or not (_channels_last(x) and _channels_last(more)):
        x += more
        if bias is not None:
            x += bias.view(-1, *(1,) * (x.ndim - 2))
        return x
    kernels.add_bias_residual(x, more, bias)
    return x


def layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Layer normalisation of (..., width)."""
    kernels = _kernels
    if kernels is None or not x.is_contiguous():
        return norm(x)  # type: ignore[no-any-return]
    result: Tensor = kernels.layer_norm(x, norm.weight, norm.bias, norm.eps)
    return result


def add_layer_norm(x: Tensor, more: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Add `more` to x, in x, and give the layer normalisation of the sum."""
    kernels = _kernels
    if kernels is None or not (x.is_contiguous() and more.is_contiguous()):
        x += more
        return norm(x)  # type: ignore[no-any-return]
    result: Tensor = kernels.layer_norm(x, norm.weight, norm.bias, norm.eps, added=more)
    return result


def geglu(x: Tensor) -> Tensor:
    """The first half of each row of (rows, 2 width) times GELU of the second."""
    kernels = _kernels
    if kernels is None or not x.is_contiguous():
        values, gate = x.chunk(2, dim=-1)
        return values.mul_(functional.gelu(gate))
    result: Tensor = kernels.geglu(x)
    return result


def temporal_attention(three: Sequence[Tensor], heads: int) -> Tensor:
    """Attention over frames, each place and head alone.

    Of queries, keys and values, each (clips, frames, places, channels). To torch's kernel each
    place is what a head is: so it reads the tokens where they are.
    """
    kernels = _kernels
    if kernels is None or not _evenly(three):
        clips, frames, _, channels = three[0].shape
        parts = (t.reshape(clips, frames, -1, channels // heads).transpose(1, 2) for t in three)
        return _in_parts(*parts).transpose(1, 2).reshape(three[0].shape)
    result: Tensor = kernels.temporal_attention(*three, heads)
    return result


def _in_parts(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of (clips, heads, frames, width) whose heads may be more than a kernel takes."""
    heads = queries.shape[1]
    if heads <= _MOST_HEADS:
        return functional.scaled_dot_product_attention(queries, keys, values)
    result = torch.empty_like(queries)
    step = max(1, _MOST_HEADS // 4)  # a part lives beside the result
    for first in range(0, heads, step):
        some = slice(first, first + step)
        result[:, some] = functional.scaled_dot_product_attention(
            queries[:, some], keys[:, some], values[:, some]
        )
    return result


def _channels_last(x: Tensor) -> bool:
    return x.movedim(1, -1).is_contiguous()


def _evenly(three: Sequence[Tensor]) -> bool:
    """Whether all tokens lie equally far from each other."""
    _, frames, places, _ = three[0].shape
    token = three[0].stride(2)
    wanted = (frames * places * token, places * token, token, 1)
    return all(each.stride() == wanted for each in three)
