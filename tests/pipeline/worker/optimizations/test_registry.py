"""Selection of the optimizations by memory mode and device."""

import pytest
import torch

from pipeline.memory.modes import Mode
from pipeline.worker.optimizations import fused_ops
from pipeline.worker.optimizations.registry import OPTIMIZATIONS, select

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("triton", [True, False])
def test_channels_last_on_cuda_needs_the_triton_kernels(
    monkeypatch: pytest.MonkeyPatch, triton: bool
) -> None:
    monkeypatch.setattr(fused_ops, "enabled", lambda: triton)
    fast = Mode.RESIDENT.policy
    assert select(fast, CPU) == list(OPTIMIZATIONS)
    without = [
        name for name in OPTIMIZATIONS if name not in ("channels_last", "temporal_conv_as_matmul")
    ]
    assert select(fast, CUDA) == (list(OPTIMIZATIONS) if triton else without)
