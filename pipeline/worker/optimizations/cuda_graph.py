"""CUDA graphs: work that comes again and again is recorded, and then given to the GPU as a whole.

The host needs longer to give a small clip's some thousand kernels to the GPU one by one than the
GPU needs to do them. What is recorded are the same kernels, so that the result has the same bits.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.worker.errors import first_line, is_device_lost, is_out_of_memory

_ALONE = "thread_local"
"""What other threads do meanwhile, as the lookahead, does not end the recording."""

Work = Callable[..., Tensor]
"""Of tensors. What else it needs is the same each time, and stays where it is."""


@dataclass(frozen=True)
class _Record:
    graph: torch.cuda.CUDAGraph
    told: list[Tensor]
    given: Tensor

    def replay(self, told: list[Tensor]) -> Tensor:
        for place, values in zip(self.told, told, strict=True):
            place.copy_(values)
        self.graph.replay()
        return self.given.clone()

    def fits(self, told: list[Tensor]) -> bool:
        return [each.shape for each in told] == [each.shape for each in self.told]


def cuda_graphed(work: Work, device: torch.device) -> Work:
    """The same work: done at the first call, recorded at the second, from then on replayed.

    At the first call is made what is constant. Other shapes than were recorded are done as they
    are; all is, after one line on stderr, where nothing can be recorded. Raises what lack of memory
    or a lost device raises.
    """
    calls = 0
    record: _Record | None = None

    def again(*given: Tensor) -> Tensor:
        nonlocal calls, record
        told = [each.to(device) for each in given]
        calls += 1
        if calls == 2:
            record = _recorded(work, told)
        if record is None or not record.fits(told):
            return work(*told)
        return record.replay(told)

    return again


def _recorded(work: Work, told: list[Tensor]) -> _Record | None:
    told = [each.clone() for each in told]
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode=_ALONE):
            given = work(*told)
    except RuntimeError as error:
        refused = "captur" in str(error)  # the device itself is well
        if is_out_of_memory(error) or (is_device_lost(error) and not refused):
            raise
        print(f"nothing is recorded as a CUDA graph: {first_line(error)}", file=sys.stderr)
        return None
    return _Record(graph, told, given)
