"""Layerwise casting: weights are stored on the device in float8, and upcast layer by layer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pipeline.worker.memory.weights import Weights, tensors_of
from pipeline.worker.monkey_patch import forward_hooks

_FLOAT8 = torch.float8_e4m3fn
_LARGEST = torch.finfo(_FLOAT8).max


@contextmanager
def layerwise_cast(
    weights: Weights, network: nn.Module, layers: Sequence[nn.Module]
) -> Iterator[None]:
    """Store the weights of `layers` as float8 within the context; upcast each for its forward.

    Like diffusers' layerwise casting, with a scale for each output channel. Lossy: 3 bits of
    mantissa. Vectors (biases, norms) keep their type.
    """
    weights.unload(network)
    quantised: dict[Tensor, tuple[Tensor, Tensor, torch.dtype]] = {}

    def quantise(layer: nn.Module) -> None:
        weights.load(layer)
        for tensor in tensors_of(layer):
            if tensor.ndim > 1:
                quantised[tensor] = (*_quantise(tensor.data), tensor.dtype)
                tensor.data = quantised[tensor][0]

    def upcast(layer: nn.Module, _: object) -> None:
        for tensor in tensors_of(layer):
            if tensor in quantised:
                small, scale, dtype = quantised[tensor]
                tensor.data = small.to(dtype).mul_(scale)

    def restore(layer: nn.Module, *_: object) -> None:
        for tensor in tensors_of(layer):
            if tensor in quantised:
                tensor.data = quantised[tensor][0]

    with forward_hooks(layers, upcast, restore):
        try:
            weights.load(network, except_for=layers)
            for layer in layers:
                quantise(layer)
            yield
        finally:
            weights.unload(network)


def _quantise(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values as float8, and the scale of each output channel."""
    dims = tuple(range(1, values.ndim))
    scale = (values.abs().amax(dims, keepdim=True).float() / _LARGEST).clamp(min=1e-12)
    return (values / scale).to(_FLOAT8), scale.to(values.dtype)
