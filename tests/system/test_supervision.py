"""A worker that hangs, dies or does not get ready: told apart, replaced, and the queue goes on."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.children.protocol import HEARTBEAT_TIMEOUTS
from tests.system.conftest import Open
from tests.system.needs import missing
from tests.system.studio import Studio, picture

pytestmark = pytest.mark.slow

LIMITS = dict.fromkeys(HEARTBEAT_TIMEOUTS, 8.0) | {"start": 40.0, "load": 15.0}
"""Seconds of silence; the import of torch alone takes several on a busy machine."""


@pytest.fixture(scope="module")
def clumsy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A daemon whose worker has an accident for each token that is laid out."""
    folder: Path = tmp_path_factory.mktemp("clumsy")
    faults = [f"hang:{stage}:{folder}/hang-{stage}" for stage in HEARTBEAT_TIMEOUTS]
    faults.append(f"lost:denoise:{folder}/lost")
    studio = Studio(
        folder / "studio",
        I2VD_TESTING="1",
        I2VD_TEST_FAULT=";".join(faults),
        I2VD_MODEL__HEARTBEAT_TIMEOUTS=json.dumps(LIMITS),
    )
    try:
        yield studio.start()
    finally:
        studio.close()


def meet(studio: Studio, *tokens: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A picture that meets with these and is done all the same: its job, and the log's lines."""
    before = len(losses(studio))
    for token in tokens:
        (studio.root.parent / token).touch()
    name = f"{'-'.join(tokens)}.png"
    studio.drop(name, picture(40))
    (job,) = studio.until_settled(name, "done")
    assert not any((studio.root.parent / token).exists() for token in tokens)
    return job, losses(studio)[before:]


def losses(studio: Studio) -> list[dict[str, Any]]:
    return [line for line in studio.log() if line["event"] == "child lost"]


def hung(stage: str) -> tuple[str, str]:
    return "hang", f"the worker hung in {stage}: silent for {LIMITS[stage]:.0f} s"


def test_a_worker_that_hangs_before_it_is_ready_is_no_fault_of_the_picture(clumsy: Studio) -> None:
    job, lost = meet(clumsy, "hang-start", "hang-load")
    assert [(line["cause"], line["reason"]) for line in lost] == [hung("start"), hung("load")]
    assert (job["attempt"], job["failures"]) == (3, 0)


@pytest.mark.parametrize("stage", ["condition", "denoise", "decode", "encode_video"])
def test_a_hang_in_any_stage_costs_one_worker(clumsy: Studio, stage: str) -> None:
    hangs = clumsy.metric("i2vd_child_exits_total", child="worker", cause="hang")
    job, (lost,) = meet(clumsy, f"hang-{stage}")
    assert (lost["cause"], lost["reason"]) == hung(stage)
    assert "nvidia-smi" in lost["hint"]
    assert (job["attempt"], job["failures"]) == (2, 1)
    assert clumsy.metric("i2vd_child_exits_total", child="worker", cause="hang") == hangs + 1


def test_a_lost_device_costs_one_worker(clumsy: Studio) -> None:
    job, (lost,) = meet(clumsy, "lost")
    assert lost["cause"] == "device"
    assert "an illegal memory access was encountered (in denoise)" in lost["reason"]
    assert "dmesg" in lost["hint"]
    assert (job["attempt"], job["failures"]) == (2, 1)


_MEMORY_GROUPS = (
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
    ("/sys/fs/cgroup", "memory.max"),
)
"""Where they are made, and the file that sets the limit, in control groups of version 1 and 2."""


@contextlib.contextmanager
def control_group(limit: int) -> Iterator[Path]:
    """A control group in which processes may take so many bytes more; pids go to `cgroup.procs`."""
    for root, key in _MEMORY_GROUPS:
        group = Path(root) / f"i2vd-test-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            (group / key).write_text(str(limit))
            break
        with contextlib.suppress(OSError):
            group.rmdir()
    else:
        missing("this test needs root and a control group for memory")
    try:
        yield group
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            Path(root, "cgroup.procs").write_text(pid)
        group.rmdir()


def test_a_worker_that_the_kernel_shoots_for_memory_is_told_as_that(shared: Studio) -> None:
    shared.drop("slow-hungry.png", picture(60))
    worker = shared.until_denoising("slow-hungry.png")["pid"]
    with control_group(limit=1 << 14) as group:
        (group / "cgroup.procs").write_text(str(worker))
        shared.until(lambda: not Path(f"/proc/{worker}").exists(), "the kernel has shot it")
    (job,) = shared.until_settled("slow-hungry.png", "done")
    (lost,) = [line for line in shared.log() if line.get("cause") == "host_memory"]
    assert "the kernel killed the worker" in lost["reason"]
    assert "MemoryMax=" in lost["hint"]
    assert (job["attempt"], job["failures"]) == (2, 1)
    assert shared.metric("i2vd_child_exits_total", cause="host_memory") == 1


def test_pictures_wait_for_a_worker_that_does_not_get_ready(quick_in: Open) -> None:
    studio = quick_in(PEER="unready").start()
    studio.drop("patient.png", picture(61))
    studio.until(lambda: not studio.is_ready(), "the daemon says that it cannot work")
    studio.until(lambda: studio.metric("i2vd_child_exits_total", cause="load") >= 2, "two tries")
    assert studio.is_alive()
    (job,) = studio.jobs("patient.png")
    assert job["failures"] == 0
    assert (studio.inbox / "patient.png").is_file()
    trouble = studio.request("GET", "/readyz").text
    assert "not today" in trouble

    studio.stop()
    del studio.environment["PEER"]
    studio.start()
    (job,) = studio.until_settled("patient.png", "done")
    assert job["failures"] == 0
    assert studio.is_ready()


def test_a_sick_worker_condemns_no_picture(quick_in: Open, tmp_path: Path) -> None:
    sickness = tmp_path / "sickness"
    studio = quick_in(PEER_SICK=str(sickness), I2VD_QUEUE__BACKOFF="0.5").start()
    sickness.touch()
    names = [f"sound{number}.png" for number in range(6)]
    for seed, name in enumerate(names, start=70):
        studio.drop(name, picture(seed))
    studio.until(lambda: not studio.is_ready(), "the daemon says that it cannot work")
    assert (
        "the sample clip fails too: RuntimeError: could not"
        in studio.request("GET", "/readyz").text
    )
    studio.until(
        lambda: (
            len([e for e in studio.log() if e["event"] == "sample clip failed, worker sick"]) > 1
        ),
        "it is tried again",
    )
    assert not studio.is_ready()
    assert {job["state"] for job in studio.jobs()} <= {"queued", "running"}

    sickness.unlink()
    for name in names:
        (job,) = studio.until_settled(name, "done")
        assert job["failures"] <= 1
    assert studio.is_ready()


def test_two_jobs_that_fail_by_themselves_stop_no_other(quick_in: Open) -> None:
    studio = quick_in(max_attempts=2)
    studio.rule("10-bad", '[match]\nnames = ["bad*"]\n[make]\nprompt = "retry"\npreset = "draft"\n')
    studio.start()
    for seed, name in enumerate(("bad1.png", "bad2.png", "good.png"), start=80):
        studio.drop(name, picture(seed))
    studio.until_settled("good.png", "done")
    for name in ("bad1.png", "bad2.png"):
        (job,) = studio.until_settled(name, "failed")
        assert job["failures"] == 1
    assert studio.is_ready()
    assert any(line["event"] == "sample clip generated, worker sound" for line in studio.log())
