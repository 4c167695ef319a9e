"""Which transforms a mode takes on which device."""

import pytest
import torch

from pipeline.memory.modes import Mode
from pipeline.worker.optimizations import fused_ops
from pipeline.worker.optimizations.registry import OPTIMIZATIONS, select

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("ours", [True, False])
def test_channels_are_last_where_there_is_a_kernel_for_that(
    monkeypatch: pytest.MonkeyPatch, ours: bool
) -> None:
    monkeypatch.setattr(fused_ops, "enabled", lambda: ours)
    fast = Mode.FAST.policy
    assert select(fast, CPU) == list(OPTIMIZATIONS)
    without = [
        name for name in OPTIMIZATIONS if name not in ("channels_last", "temporal_conv_as_matmul")
    ]
    assert select(fast, CUDA) == (list(OPTIMIZATIONS) if ours else without)
