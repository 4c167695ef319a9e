"""Layerwise casting: weights stay on the device in eight bits, and each part is cast to compute."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pipeline.worker.memory.weights import Weights, tensors_of
from pipeline.worker.patch import forward_hooks

_FLOAT8 = torch.float8_e4m3fn
_LARGEST = torch.finfo(_FLOAT8).max


@contextmanager
def layerwise_cast(
    weights: Weights, network: nn.Module, pieces: Sequence[nn.Module]
) -> Iterator[None]:
    """Within, the pieces' weights lie on the device in eight bits, each unfolded for its turn.

    Lossy: 3 bits of mantissa, with a scale for each output channel. Vectors keep their type.
    """
    weights.unload(network)
    kept: dict[Tensor, tuple[Tensor, Tensor, torch.dtype]] = {}

    def keep(piece: nn.Module) -> None:
        weights.load(piece)
        for tensor in tensors_of(piece):
            if tensor.ndim > 1:
                kept[tensor] = (*_quantise(tensor.data), tensor.dtype)
                tensor.data = kept[tensor][0]

    def unfold(piece: nn.Module, _: object) -> None:
        for tensor in tensors_of(piece):
            if tensor in kept:
                small, scale, dtype = kept[tensor]
                tensor.data = small.to(dtype).mul_(scale)

    def fold(piece: nn.Module, *_: object) -> None:
        for tensor in tensors_of(piece):
            if tensor in kept:
                tensor.data = kept[tensor][0]

    with forward_hooks(pieces, unfold, fold):
        try:
            weights.load(network, but=pieces)
            for piece in pieces:
                keep(piece)
            yield
        finally:
            weights.unload(network)


def _quantise(values: Tensor) -> tuple[Tensor, Tensor]:
    """Eight bits a value, and the scale of each output channel."""
    rest = tuple(range(1, values.ndim))
    scale = (values.abs().amax(rest, keepdim=True).float() / _LARGEST).clamp(min=1e-12)
    return (values / scale).to(_FLOAT8), scale.to(values.dtype)
