"""Several devices, and a device that is released: who works when, as the processes show."""

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.system.conftest import STEADY, quick_studio
from tests.system.studio import Studio, picture

pytestmark = pytest.mark.slow

IDLE = 3.0


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A daemon with two devices that are released when idle."""
    studio = quick_studio(
        tmp_path_factory.mktemp("pair"),
        I2VD_MODEL__DEVICES='["cpu", "cpu"]',
        I2VD_MODEL__UNLOAD_AFTER_IDLE=str(IDLE),
    )
    studio.rule("10-slow", STEADY)
    try:
        yield studio.start()
    finally:
        studio.close()


def busy(studio: Studio) -> dict[str, int]:
    """The worker of each picture that is being denoised."""
    slots: list[dict[str, Any]] = studio.get("/api/status")["slots"]
    return {
        slot["path"]: slot["pid"]
        for slot in slots
        if slot["path"] and (slot["progress"] or {}).get("stage") == "denoise"
    }


def both_at_work(studio: Studio, names: list[str]) -> dict[str, int]:
    """The workers of two pictures that are dropped, once each has one."""
    for number, name in enumerate(names):
        studio.drop(name, picture(80 + number))
    return studio.until(lambda: found if len(found := busy(studio)) == 2 else None, "both work")


def test_two_devices_work_at_once_and_one_dies_alone(pair: Studio) -> None:
    names = ["slow-a.png", "slow-b.png"]
    both = both_at_work(pair, names)
    assert len(set(both.values())) == 2
    (widowed, victim), (spared, survivor) = sorted(both.items())
    os.kill(victim, signal.SIGKILL)
    for name in names:
        pair.until_settled(name, "done")
    jobs = {name: pair.job(name) for name in names}
    assert (jobs[widowed]["attempt"], jobs[widowed]["failures"]) == (2, 1)
    assert (jobs[spared]["attempt"], jobs[spared]["failures"]) == (1, 0)
    assert pair.clips() == ["slow-a.mp4", "slow-b.mp4"]
    assert pair.metric("i2vd_child_exits_total", child="worker") == 1
    assert pair.metric("i2vd_jobs_finished_total", outcome="done") == 2
    assert survivor != victim


def test_an_idle_device_is_released_and_comes_back(pair: Studio) -> None:
    names = ["slow-c.png", "slow-d.png"]
    both_at_work(pair, names)
    for name in names:
        pair.until_settled(name, "done")
    pair.until(lambda: not pair.processes("tests.pipeline.peer"), "no worker holds a device")

    def released() -> int:
        return len([line for line in pair.log() if line["event"] == "idle worker stopped"])

    pair.until(lambda: released() >= 2, "both are told")  # each just after its worker's end
    assert pair.is_ready()
    began = time.monotonic()
    pair.drop("slow-e.png", picture(85))
    pair.until(lambda: "slow-e.png" in busy(pair), "it works again")
    print(f"from the drop to the first step: {time.monotonic() - began:.1f} s")
    pair.until_settled("slow-e.png", "done")
    assert pair.metric("i2vd_child_exits_total", child="worker") == 1, "a release is no loss"
