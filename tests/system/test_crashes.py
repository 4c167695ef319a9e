"""SIGKILL, to each process at the worst moment: nothing is lost, nothing is done twice."""

import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.chaos.observer import Observer
from tests.system.conftest import STEADY, Open
from tests.system.studio import Studio, names, picture, visible

pytestmark = pytest.mark.slow

DEADLY = """\
[match]
names = ["deadly*"]

[make]
prompt = "deadly"
preset = "draft"
"""


def test_a_worker_that_is_killed_costs_one_attempt(quick: Studio) -> None:
    deaths = quick.metric("i2vd_child_exits_total", child="worker")
    daemon = quick.pid
    quick.drop("slow-widow.png", picture(1))
    worker = quick.until_denoising("slow-widow.png")["pid"]
    os.kill(worker, signal.SIGKILL)
    (job,) = quick.until_settled("slow-widow.png", "done")
    assert (job["attempt"], job["failures"]) == (2, 1)
    assert "retry_scheduled" in quick.events(job["id"])
    assert quick.metric("i2vd_child_exits_total", child="worker") == deaths + 1
    assert quick.metric("i2vd_retries_total") >= 1
    assert [c for c in quick.clips() if "widow" in c] == ["slow-widow.mp4"]
    assert quick.pid == daemon
    assert quick.is_ready()
    assert quick.slot()["pid"] != worker


@pytest.mark.parametrize("number", [36, signal.SIGRTMAX - 1])
def test_a_real_time_signal_costs_one_attempt_as_others_do(quick: Studio, number: int) -> None:
    name = f"slow-real-{number}.png"
    quick.drop(name, picture(number))
    os.kill(quick.until_denoising(name)["pid"], number)
    (job,) = quick.until_settled(name, "done")
    assert (job["attempt"], job["failures"]) == (2, 1)
    lost = [line for line in quick.log() if line["event"] == "child lost"]
    assert f"was killed by signal {number}" in lost[-1]["reason"]
    assert lost[-1]["cause"] == "killed"
    assert quick.is_ready()


def test_a_picture_child_that_is_killed_condemns_no_picture(quick: Studio) -> None:
    quick.drop("before.png", picture(2))
    quick.until_settled("before.png", "done")
    deaths = quick.metric("i2vd_child_exits_total", child="picture")
    (child,) = quick.processes("pipeline.image")
    os.kill(child, signal.SIGSTOP)
    quick.drop("in-hand.png", picture(3))
    time.sleep(1.5)  # long enough to be asked about the picture in most runs
    os.kill(child, signal.SIGKILL)
    quick.until_settled("in-hand.png", "done")
    quick.drop("next.png", picture(4))
    quick.until_settled("next.png", "done")
    assert quick.metric("i2vd_child_exits_total", child="picture") == deaths + 1
    assert quick.processes("pipeline.image") != [child]
    lost = [line["reason"] for line in quick.log() if line["event"] == "child lost"]
    assert "the picture decoder was killed by SIGKILL" in lost[-1]


def test_a_job_that_kills_its_worker_each_time_is_given_up_and_can_be_retried(
    quick_in: Open,
) -> None:
    studio = quick_in(max_attempts=2, PEER_DEADLY="1")
    studio.rule("10-deadly", DEADLY)
    studio.start()
    studio.drop("deadly.png", picture(5))
    studio.until_state("deadly.png", "running")
    studio.drop("other.png", picture(6))
    (job,) = studio.until_settled("deadly.png", "failed")
    studio.until_settled("other.png", "done")
    assert job["attempt"] == 2
    assert "SIGKILL" in job["error"]
    assert "SIGKILL" in studio.reason("deadly.png")
    assert (studio.failed / "deadly.png").is_file()
    assert studio.clips() == ["other.mp4"]
    assert studio.metric("i2vd_child_exits_total", child="worker") == 2
    finished = studio.metric("i2vd_jobs_finished_total", outcome="failed", rule="10-deadly")
    assert finished == 1

    studio.stop()
    del studio.environment["PEER_DEADLY"]
    studio.start()
    assert studio.post(f"/api/jobs/{job['id']}/retry").json()["state"] == "queued"
    studio.until_settled("deadly.png", "done")
    assert studio.clips() == ["deadly.mp4", "other.mp4"]
    assert (studio.archive / "deadly.png").is_file()
    assert names(studio.failed) == []


def kill_when(studio: Studio, seen: Callable[[], object], what: str) -> None:
    """Kill the daemon as soon as something shows, and see that it leaves no process behind."""
    end = time.monotonic() + 120
    while not seen():
        assert time.monotonic() < end, f"never seen: {what}\n{studio.log_tail()}"
        time.sleep(0.0005)
    studio.kill()
    end = time.monotonic() + 60
    while left := studio.processes():
        assert time.monotonic() < end, f"orphans: {left}\n{studio.log_tail()}"
        time.sleep(0.1)


def test_a_daemon_killed_at_any_step_makes_each_clip_once(quick_in: Open) -> None:
    studio = quick_in()
    studio.rule("10-slow", STEADY)
    studio.start()
    with Observer(studio.outbox) as observer:
        studio.drop("slow-a.png", picture(7))
        studio.until_denoising("slow-a.png")
        kill_when(studio, lambda: True, "in the middle of the denoising")
        assert studio.clips() == []

        studio.start()
        sidecar = studio.outbox / "slow-a.mp4.json"
        kill_when(studio, sidecar.exists, "the sidecar in the outbox")

        studio.drop("b.png", picture(8))
        studio.start()
        kill_when(studio, (studio.outbox / "b.mp4").exists, "the clip in the outbox")

        studio.drop("c.png", picture(9))
        studio.start()
        kill_when(studio, (studio.archive / "c.png").exists, "the picture in the archive")

        studio.start()
        for path in ("slow-a.png", "b.png", "c.png"):
            (job,) = studio.until_settled(path, "done")
            assert job["failures"] == 0
    assert observer.errors == []
    assert studio.clips() == ["b.mp4", "c.mp4", "slow-a.mp4"]
    assert names(studio.archive) == ["b.png", "c.png", "slow-a.png"]
    assert list(visible(studio.inbox, "*")) == []
    assert studio.staging() == []
    assert len(studio.jobs()) == 3
