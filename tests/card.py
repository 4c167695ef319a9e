"""A CUDA card that is not there: tensors with its device and their shapes, and nothing in them.

torch's fake tensors refuse, as a card would, what mixes devices or types. A build of torch without
CUDA refuses some of what it does on its own way to them (indices, copies), which is told here anew.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.worker.memory.weights import Weights
from pipeline.worker.model.loader import LoadedModel
from pipeline.worker.optimizations.attention import qkv_weights
from tests.bench.memory_count import Shapes

CARD = torch.device("cuda:0")


class _OneStream(Weights):
    """On that card nothing is copied while it computes, and no memory of the host is pinned."""

    def side_stream(self) -> None:
        return None

    def pin(self, module: nn.Module) -> None:
        pass


class _Card(Shapes):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == Tensor.data.__set__:  # type: ignore[attr-defined]
            args[0].fake_device = args[1].fake_device
        elif func == Tensor.__getitem__:
            return _at(*args)
        elif func == Tensor.__setitem__:
            return _fits(_at(*args[:2]), args[2])
        elif func == Tensor.copy_:
            return _fits(*args[:2])
        elif func == Tensor.contiguous:
            layout = kwargs.get("memory_format", torch.contiguous_format)
            if args[0].is_contiguous(memory_format=layout):
                return args[0]
            return torch.clone(args[0], memory_format=layout)
        return super().__torch_function__(func, types, args, kwargs)


def _at(x: Tensor, index: Any) -> Tensor:
    wanted = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(each, Tensor) and each.ndim for each in wanted):
        return torch.ops.aten.index(x, wanted)
    if Ellipsis in wanted:
        at, named = wanted.index(Ellipsis), sum(each is not None for each in wanted) - 1
        wanted[at : at + 1] = [slice(None)] * (x.ndim - named)
    dim = 0
    for each in wanted:
        match each:
            case None:
                x, dim = torch.unsqueeze(x, dim), dim + 1
            case slice():
                x = torch.ops.aten.slice(x, dim, each.start, each.stop, each.step or 1)
                dim += 1
            case number:
                x = torch.select(x, dim, number)
    return x


def _fits(place: Tensor, values: Any) -> Tensor:
    if isinstance(values, Tensor):
        torch.broadcast_to(values, place.shape)
    return place


@contextmanager
def on_a_card(model: LoadedModel) -> Iterator[None]:
    """Within, a model that was loaded on the CPU is on the card; it cannot be taken back."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    weights = _OneStream(CARD)
    for network in (model.unet, model.vae, model.text_encoder, model.image_encoder):
        for module in network.modules():
            for name, tensor in [*module._parameters.items()]:
                if tensor is not None:
                    fake = nn.Parameter(mode.from_tensor(tensor.data), requires_grad=False)
                    module._parameters[name] = fake
            for name, tensor in [*module._buffers.items()]:
                if tensor is not None:
                    module._buffers[name] = mode.from_tensor(tensor)
        weights.register(network, qkv_weights(network) if network is model.unet else ())
    model.weights = weights
    with torch.no_grad(), mode, _Card():
        yield
