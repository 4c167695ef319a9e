"""Networks that are on the device piece by piece: each part only while it computes.

Either the pieces come from the host, the next one while the present one computes; or they stay on
the device in eight bits, and each is unfolded for its turn.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

from pipeline.worker.weights import Weights, tensors_of

_FLOAT8 = torch.float8_e4m3fn
_LARGEST = torch.finfo(_FLOAT8).max


@contextmanager
def passing(weights: Weights, network: nn.Module, pieces: Sequence[nn.Module]) -> Iterator[None]:
    """Within, each piece comes from the host for its turn; what is in no piece stays.

    The order of the pieces is learnt as they are called: from the second round on, and for pieces
    that are given in their order from the first, the next one is fetched while one computes.
    """
    weights.leave(network)
    side = weights.side_stream()
    following = dict(pairwise(pieces))
    last: nn.Module | None = None

    def arrive(piece: nn.Module, _: object) -> None:
        nonlocal last
        if last is not None and following.get(last) is not piece:
            if last in following:
                weights.leave(following[last])
            following[last] = piece
        last = piece
        weights.start(piece, side)
        if side is not None:
            torch.cuda.current_stream(weights.device).wait_stream(side)
        if piece in following:
            weights.start(following[piece], side)

    def depart(piece: nn.Module, *_: object) -> None:
        weights.leave(piece)

    with _hooks(pieces, arrive, depart):
        try:
            weights.bring(network, but=pieces)
            yield
        finally:
            if side is not None:  # nothing may be freed while it is being written
                torch.cuda.current_stream(weights.device).wait_stream(side)
            weights.leave(network)


@contextmanager
def folded(weights: Weights, network: nn.Module, pieces: Sequence[nn.Module]) -> Iterator[None]:
    """Within, the pieces' weights lie on the device in eight bits, each unfolded for its turn.

    Lossy: 3 bits of mantissa, with a scale for each output channel. Vectors keep their type.
    """
    weights.leave(network)
    kept: dict[Tensor, tuple[Tensor, Tensor, torch.dtype]] = {}

    def keep(piece: nn.Module) -> None:
        weights.bring(piece)
        for tensor in tensors_of(piece):
            if tensor.ndim > 1:
                kept[tensor] = (*_fold(tensor.data), tensor.dtype)
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

    with _hooks(pieces, unfold, fold):
        try:
            weights.bring(network, but=pieces)
            for piece in pieces:
                keep(piece)
            yield
        finally:
            weights.leave(network)


def _fold(values: Tensor) -> tuple[Tensor, Tensor]:
    """Eight bits a value, and the scale of each output channel."""
    rest = tuple(range(1, values.ndim))
    scale = (values.abs().amax(rest, keepdim=True).float() / _LARGEST).clamp(min=1e-12)
    return (values / scale).to(_FLOAT8), scale.to(values.dtype)


@contextmanager
def _hooks(
    pieces: Iterable[nn.Module], before: Callable[..., None], after: Callable[..., None]
) -> Iterator[None]:
    handles = []
    for piece in pieces:
        handles.append(piece.register_forward_pre_hook(before))
        handles.append(piece.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
