"""Group offloading: parts of a network are on the device only while they compute.

The next part is fetched from the host while the present one computes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import nn

from pipeline.worker.memory.weights import Weights
from pipeline.worker.patch import forward_hooks


@contextmanager
def group_offload(
    weights: Weights, network: nn.Module, pieces: Sequence[nn.Module]
) -> Iterator[None]:
    """Within, each piece comes from the host for its turn; what is in no piece stays.

    The order of the pieces is learnt as they are called: from the second round on, and for pieces
    that are given in their order from the first, the next one is fetched while one computes.
    """
    weights.unload(network)
    side = weights.side_stream()
    following = dict(pairwise(pieces))
    last: nn.Module | None = None

    def arrive(piece: nn.Module, _: object) -> None:
        nonlocal last
        if last is not None and following.get(last) is not piece:
            if last in following:
                weights.unload(following[last])
            following[last] = piece
        last = piece
        weights.start_loading(piece, side)
        if side is not None:
            torch.cuda.current_stream(weights.device).wait_stream(side)
        if piece in following:
            weights.start_loading(following[piece], side)

    def depart(piece: nn.Module, *_: object) -> None:
        weights.unload(piece)

    with forward_hooks(pieces, arrive, depart):
        try:
            weights.load(network, but=pieces)
            yield
        finally:
            if side is not None:  # nothing may be freed while it is being written
                torch.cuda.current_stream(weights.device).wait_stream(side)
            weights.unload(network)
