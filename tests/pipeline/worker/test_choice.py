"""Which transforms a mode takes on which device, and in which modes blocks are compiled."""

import pytest
import torch

from pipeline.memory.modes import Mode
from pipeline.worker.exact import fused
from pipeline.worker.exact.choice import EXACT, chosen, compiles

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("ours", [True, False])
def test_channels_are_last_where_there_is_a_kernel_for_that(
    monkeypatch: pytest.MonkeyPatch, ours: bool
) -> None:
    monkeypatch.setattr(fused, "at_work", lambda: ours)
    fast = Mode.FAST.thrift
    for device, compiled in ((CPU, False), (CPU, True), (CUDA, True)):
        assert chosen(fast, device, compiled=compiled) == list(EXACT)
    without = [name for name in EXACT if name not in ("channels_last", "shifted")]
    assert chosen(fast, CUDA) == (list(EXACT) if ours else without)


def test_only_what_goes_through_the_unet_whole_is_compiled() -> None:
    assert [mode for mode in Mode if compiles(mode.thrift)] == [Mode.FAST]
