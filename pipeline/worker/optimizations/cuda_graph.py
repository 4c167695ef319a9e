"""CUDA graph capture and replay of work that is repeated with the same shapes.

A small clip needs about a thousand kernels a step, and the host takes longer to launch them one by
one than the GPU takes to run them. A replay launches the captured kernels at once. They are the
same kernels, so the result has the same bits.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.worker.errors import first_line, is_device_lost, is_out_of_memory

_CAPTURE_ERROR_MODE = "thread_local"
"""CUDA calls of other threads, such as the prefetch thread's, do not invalidate the capture."""

Work = Callable[..., Tensor]
"""A function of tensors. All other tensors it reads must keep their address between calls."""


@dataclass(frozen=True)
class _CapturedGraph:
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    output: Tensor

    def replay(self, inputs: list[Tensor]) -> Tensor:
        for static_input, values in zip(self.inputs, inputs, strict=True):
            static_input.copy_(values)
        self.graph.replay()
        return self.output.clone()

    def matches(self, inputs: list[Tensor]) -> bool:
        return [each.shape for each in inputs] == [each.shape for each in self.inputs]


def cuda_graphed(work: Work, device: torch.device) -> Work:
    """Wrap `work`: the first call runs it, the second captures it, later calls replay it.

    The first call also computes what `work` caches, such as step invariants. Calls with other
    shapes than the captured ones run eagerly. If the capture fails, all calls run eagerly, and one
    line on stderr gives the reason. Out-of-memory and lost-device errors propagate.
    """
    calls = 0
    captured: _CapturedGraph | None = None

    def run(*args: Tensor) -> Tensor:
        nonlocal calls, captured
        inputs = [each.to(device) for each in args]
        calls += 1
        if calls == 2:
            captured = _capture(work, inputs)
        if captured is None or not captured.matches(inputs):
            return work(*inputs)
        return captured.replay(inputs)

    return run


def _capture(work: Work, inputs: list[Tensor]) -> _CapturedGraph | None:
    inputs = [each.clone() for each in inputs]
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode=_CAPTURE_ERROR_MODE):
            output = work(*inputs)
    except RuntimeError as error:
        capture_refused = "captur" in str(error)  # the device itself still works
        if is_out_of_memory(error) or (is_device_lost(error) and not capture_refused):
            raise
        print(f"CUDA graph capture failed, running eagerly: {first_line(error)}", file=sys.stderr)
        return None
    return _CapturedGraph(graph, inputs, output)
