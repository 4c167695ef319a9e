"""Group offloading: groups of layers are on the device only while they compute.

The next group is copied from the host while the current one computes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import nn

from pipeline.worker.memory.weights import Weights
from pipeline.worker.monkey_patch import forward_hooks


@contextmanager
def group_offload(
    weights: Weights, network: nn.Module, groups: Sequence[nn.Module]
) -> Iterator[None]:
    """Onload each group for its forward within the context; layers in no group stay loaded.

    The execution order is recorded as the groups run. `groups` is the first guess: if it is right,
    prefetching works from the first forward of the network, otherwise from the second.
    """
    weights.unload(network)
    side = weights.side_stream()
    next_group = dict(pairwise(groups))
    last: nn.Module | None = None

    def onload(group: nn.Module, _: object) -> None:
        nonlocal last
        if last is not None and next_group.get(last) is not group:
            if last in next_group:
                weights.unload(next_group[last])
            next_group[last] = group
        last = group
        weights.start_loading(group, side)
        if side is not None:
            torch.cuda.current_stream(weights.device).wait_stream(side)
        if group in next_group:
            weights.start_loading(next_group[group], side)

    def offload(group: nn.Module, *_: object) -> None:
        weights.unload(group)

    with forward_hooks(groups, onload, offload):
        try:
            weights.load(network, except_for=groups)
            yield
        finally:
            if side is not None:  # memory must not be freed during a copy into it
                torch.cuda.current_stream(weights.device).wait_stream(side)
            weights.unload(network)
