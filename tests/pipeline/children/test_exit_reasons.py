"""Endings of a child told apart, and the kernel's own count of those it shot."""

import signal
from pathlib import Path

import pytest

from pipeline.children.exit_reasons import (
    CAUSES,
    ChildFailure,
    classify_exit,
    fragmentation,
    leak,
    oom_kills,
)
from pipeline.children.process import Exited, TimedOut
from pipeline.children.protocol import EXIT_DEVICE_LOST, Cancelled, OutOfMemory


@pytest.mark.parametrize(
    ("end", "oom_killed", "cause"),
    [
        (TimedOut(3.0), False, "hang"),
        (TimedOut(3.0), True, "hang"),
        (Exited("wrote rubbish on its channel"), False, "channel"),
        (Exited("was killed by SIGKILL", returncode=-signal.SIGKILL), True, "host_memory"),
        (Exited("was killed by SIGKILL", returncode=-signal.SIGKILL), False, "killed"),
        (Exited("was killed by SIGTERM", returncode=-signal.SIGTERM), True, "killed"),
        (Exited("was killed by SIGSEGV", returncode=-signal.SIGSEGV), True, "crash"),
        (Exited("was killed by SIGSYS", returncode=-signal.SIGSYS), False, "forbidden_call"),
        (Exited("was killed by signal 36", returncode=-36), False, "killed"),
        (Exited("was killed by SIGXCPU", returncode=-signal.SIGXCPU), False, "crash"),
        (Exited("was killed by SIGABRT", returncode=-signal.SIGABRT), False, "crash"),
        (Exited("ended", returncode=EXIT_DEVICE_LOST), False, "device"),
        (Exited("ended with exit code 1", returncode=1), False, "crash"),
        (Exited("ended with exit code 0", returncode=0), False, "crash"),
    ],
)
def test_each_ending_has_one_cause(end: Exited | TimedOut, oom_killed: bool, cause: str) -> None:
    loss = classify_exit("the worker", end, "denoise", oom_killed=oom_killed)
    assert loss.cause == cause
    assert "the worker" in loss.reason
    assert "in denoise" in loss.reason


def test_each_cause_says_what_can_be_done() -> None:
    assert all(ChildFailure(cause, "why").advice for cause in CAUSES)


MB = 1 << 20


@pytest.mark.parametrize(
    ("requested", "allocated", "reserved", "found"),
    [
        (100 * MB, 500 * MB, 700 * MB, True),
        (100 * MB, 500 * MB, 600 * MB, True),
        (101 * MB, 500 * MB, 600 * MB, False),
        (1 * MB, 500 * MB, 500 * MB, False),
        (None, None, None, False),
        (100 * MB, None, 600 * MB, False),
    ],
)
def test_memory_is_fragmented_when_enough_of_it_lies_idle(
    requested: int | None, allocated: int | None, reserved: int | None, found: bool
) -> None:
    end = OutOfMemory(
        stage="denoise",
        detail="d",
        requested=requested,
        allocated=allocated,
        reserved=reserved,
    )
    assert (fragmentation(end) is not None) is found


@pytest.mark.parametrize(
    ("strays", "found"), [(None, False), (0, False), (256 * MB, False), (257 * MB, True)]
)
def test_a_leak_is_more_than_a_librarys_workspace(strays: int | None, found: bool) -> None:
    assert (leak(Cancelled(leaked_bytes=strays)) is not None) is found


def test_the_kernels_count_is_read_and_its_absence_is_none(tmp_path: Path) -> None:
    vmstat = tmp_path / "vmstat"
    assert oom_kills(vmstat) == 0
    vmstat.write_text("nr_free_pages 5\n")
    assert oom_kills(vmstat) == 0
    vmstat.write_text("pgfault 77\noom_kill 4\nnuma_hit 1\n")
    assert oom_kills(vmstat) == 4
