"""Signals to the daemon: what becomes of the attempt in hand."""

import signal

import pytest

from tests.pipeline.hostile import slow_jpeg
from tests.system.conftest import STEADY, Open
from tests.system.studio import picture

pytestmark = pytest.mark.slow


def test_sigterm_gives_a_long_attempt_back_and_it_is_done_once_later(quick_in: Open) -> None:
    studio = quick_in(stop_grace=0.2)
    studio.rule("10-slow", STEADY)
    studio.start().drop("slow.png", picture(1))
    studio.until_denoising("slow.png")
    assert studio.stop() == 0
    assert studio.clips() == []
    assert (studio.inbox / "slow.png").is_file()
    assert studio.processes() == []

    studio.start()
    (job,) = studio.until_settled("slow.png", "done")
    assert (job["attempt"], job["failures"]) == (2, 0)
    assert "released" in studio.events(job["id"])
    assert studio.clips() == ["slow.mp4"]
    assert studio.staging() == []


def test_sigterm_lets_the_attempt_finish_within_its_grace(quick_in: Open) -> None:
    studio = quick_in(stop_grace=100)
    studio.rule("10-slow", STEADY)
    studio.start()
    for name in ("slow-a.png", "slow-b.png"):
        studio.drop(name, picture(2))
    studio.until(lambda: len(studio.jobs()) == 2, "both are seen")
    (running,) = studio.until(
        lambda: [job for job in studio.jobs() if job["state"] == "running"], "one job runs"
    )
    studio.until_denoising(running["path"])
    studio.signal(signal.SIGTERM)
    assert studio.wait() == 0
    stem = running["path"].removesuffix(".png")
    assert studio.clips() == [f"{stem}.mp4"], "the one that ran, and no other"
    assert studio.processes() == []
    assert [line["event"] for line in studio.log() if line.get("job") == running["id"]].count(
        "job done"
    ) == 1


def test_sigterm_gives_back_what_is_only_being_prepared(quick_in: Open) -> None:
    studio = quick_in(stop_grace=100)
    studio.rule("10-slow", STEADY)
    studio.start().post("/api/pause")
    studio.drop("slow-first.png", picture(5))
    studio.until_state("slow-first.png", "queued")
    studio.drop("slow.jpg", slow_jpeg(scans=600))  # a second or more
    studio.until_state("slow.jpg", "queued")
    studio.post("/api/resume")
    studio.until_state("slow.jpg", "running")
    studio.signal(signal.SIGTERM)
    assert studio.wait() == 0
    assert studio.clips() == ["slow-first.mp4"]
    (released,) = [line for line in studio.log() if line["event"] == "job released"]
    assert released["reason"] == "the daemon was stopped"
    assert (studio.inbox / "slow.jpg").is_file()


def test_a_second_sigterm_stops_at_once(quick_in: Open) -> None:
    studio = quick_in(stop_grace=100_000)
    studio.rule("10-slow", STEADY)
    studio.start().drop("slow.png", picture(3))
    (job,) = studio.until_state("slow.png", "running")
    studio.signal(signal.SIGTERM)
    studio.until(
        lambda: any(line["event"] == "daemon stopping" for line in studio.log()), "it says it stops"
    )
    studio.signal(signal.SIGTERM)
    assert studio.wait() == 0
    assert studio.clips() == []
    assert studio.processes() == []

    studio.start()
    assert "released" in studio.events(job["id"])
    (job,) = studio.jobs("slow.png")
    assert (job["state"] in ("queued", "running"), job["failures"]) == (True, 0)


def test_a_notify_socket_that_nobody_reads_does_not_end_the_daemon(studio_in: Open) -> None:
    studio = studio_in(NOTIFY_SOCKET="/nowhere/notify")
    studio.start().post("/api/pause")
    studio.drop("cat.png", picture(4))
    studio.until_state("cat.png", "queued")
    studio.until(lambda: studio.metric("i2vd_queue_oldest_seconds") > 1.5, "a status is due")
    assert studio.stop() == 0
