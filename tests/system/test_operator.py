"""What an operator may do with jobs: hold, order, cancel, try again."""

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from tests.system.conftest import STEADY, Open
from tests.system.studio import Studio, picture

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def paused(studio: Studio) -> Iterator[None]:
    assert studio.post("/api/pause").json()["paused"] is True
    try:
        yield
    finally:
        assert studio.post("/api/resume").json()["paused"] is False


def test_a_pause_holds_over_a_restart(quick_in: Open) -> None:
    studio = quick_in().start()
    studio.post("/api/pause")
    assert studio.stop() == 0
    studio.start()
    assert studio.get("/api/status")["paused"] is True
    assert studio.metric("i2vd_paused") == 1
    studio.drop("cat.png", picture(1))
    studio.until_state("cat.png", "queued")
    studio.until(lambda: studio.metric("i2vd_queue_oldest_seconds") > 1.5, "it waits for a while")
    assert studio.job("cat.png")["state"] == "queued"
    studio.post("/api/resume")
    studio.until_state("cat.png", "done")
    assert studio.metric("i2vd_paused") == 0


def test_the_highest_priority_is_made_first(quick: Studio) -> None:
    names = ["calm-1.png", "calm-2.png", "urgent.png"]
    with paused(quick):
        for name in names:
            quick.drop(name, picture(2))
            quick.until_state(name, "queued")
    began = {name: quick.until_state(name, "done")[0]["started"] for name in names}
    assert sorted(names, key=lambda name: began[name]) == ["urgent.png", "calm-1.png", "calm-2.png"]


def test_a_waiting_job_is_cancelled_at_once_and_can_come_back(quick: Studio) -> None:
    with paused(quick):
        quick.drop("unwanted.png", picture(3))
        (job,) = quick.until_state("unwanted.png", "queued")
        assert quick.post(f"/api/jobs/{job['id']}/cancel").json()["state"] == "cancelled"
        quick.until_settled("unwanted.png", "cancelled")
        assert (quick.failed / "unwanted.png").is_file()
        assert quick.reason("unwanted.png") == "cancelled by the operator"
        again = quick.post(f"/api/jobs/{job['id']}/cancel")
        assert (again.status_code, "cancelled" in again.text) == (409, True)

        assert quick.post(f"/api/jobs/{job['id']}/retry").json()["state"] == "queued"
        assert (quick.inbox / "unwanted.png").is_file()
        assert not (quick.failed / "unwanted.png.reason.json").exists()
    quick.until_settled("unwanted.png", "done")
    assert quick.logged_events(job["id"]) == [
        "job queued", "job cancelled", "picture moved to failed", "job requeued",
        "job started", "job done",
        "picture archived",
    ]  # fmt: skip


def test_a_running_job_is_cancelled_at_its_next_step(shared: Studio) -> None:
    shared.drop("slow-unwanted.png", picture(4))
    worker = shared.until_denoising("slow-unwanted.png")["pid"]
    job = shared.job("slow-unwanted.png")
    assert shared.post(f"/api/jobs/{job['id']}/cancel").is_success
    shared.until_settled("slow-unwanted.png", "cancelled")
    assert (shared.failed / "slow-unwanted.png").is_file()
    assert shared.reason("slow-unwanted.png") == "cancelled by the operator"
    assert not [clip for clip in shared.clips() if "unwanted" in clip and "slow" in clip]
    shared.drop("after-cancel.png", picture(5))
    shared.until_settled("after-cancel.png", "done")
    assert shared.slot()["pid"] == worker, "the worker and its model stay"


def test_a_job_can_be_cancelled_while_the_model_is_loaded_for_it(studio_in: Open) -> None:
    studio = studio_in().start()
    studio.drop("hasty.png", picture(7))
    (job,) = studio.until_state("hasty.png", "running")
    assert studio.post(f"/api/jobs/{job['id']}/cancel").is_success
    (job,) = studio.until_settled("hasty.png", "cancelled", "failed", "done")
    assert (job["state"], job["attempt"], job["failures"]) == ("cancelled", 1, 0)
    assert studio.metric("i2vd_child_exits_total", child="worker") == 0


def test_a_cancel_holds_though_the_daemon_is_killed_before_it_is_heeded(quick_in: Open) -> None:
    studio = quick_in()
    studio.rule("10-slow", STEADY)
    studio.start().drop("slow-doomed.png", picture(8))
    worker = studio.until_denoising("slow-doomed.png")["pid"]
    job = studio.job("slow-doomed.png")
    os.kill(worker, signal.SIGSTOP)  # it will not heed the cancel
    assert studio.post(f"/api/jobs/{job['id']}/cancel").is_success
    studio.kill()  # before it is repeated, which would end the worker
    os.kill(worker, signal.SIGKILL)
    studio.start()
    (job,) = studio.until_settled("slow-doomed.png", "cancelled")
    assert job["finished"] is not None
    assert studio.reason("slow-doomed.png") == "cancelled by the operator"


def test_all_failed_jobs_are_tried_again_and_the_next_one_is_chosen(quick_in: Open) -> None:
    studio = quick_in()
    studio.rule("10-bad", '[match]\nnames = ["bad*"]\n\n[make]\nprompt = "fail"\n')
    studio.start()
    names = ["bad-1.png", "bad-2.png", "bad-3.png"]
    for number, name in enumerate(names):
        studio.drop(name, picture(20 + number))
    jobs = [studio.until_settled(name, "failed")[0]["id"] for name in names]
    studio.drop("rubbish.png", b"no picture")
    studio.until_settled("rubbish.png", "failed")
    (studio.failed / "bad-2.png").unlink()
    with paused(studio):
        ended = studio.command("retry", "--all")
        assert (ended.returncode, ended.stdout) == (1, "3 jobs are queued or dropped again\n")
        assert f"job {jobs[1]}: the picture of job {jobs[1]} is not in" in ended.stderr
        assert ended.stderr.count("\n") == 1
        assert [job["id"] for job in studio.get("/api/queue")] == [jobs[0], jobs[2]]
        ended = studio.command("priority", str(jobs[2]), "7")
        assert (ended.returncode, ended.stdout) == (0, f"job {jobs[2]} has priority 7\n")
        assert [job["id"] for job in studio.get("/api/queue")] == [jobs[2], jobs[0]]
    for name in ("bad-1.png", "bad-3.png"):
        studio.until_settled(name, "failed")
    studio.until_settled("rubbish.png", "failed", count=2)
    assert [studio.events(job).count("failed") for job in jobs] == [2, 1, 2]
    assert (
        studio.command("retry").returncode == studio.command("priority", "1", "999").returncode == 2
    )
    assert studio.command("priority", str(jobs[0]), "1").returncode == 1


def test_what_cannot_be_done_with_a_job_is_said(quick: Studio) -> None:
    quick.drop("finished.png", picture(6))
    (job,) = quick.until_settled("finished.png", "done")
    refused = quick.post(f"/api/jobs/{job['id']}/retry")
    assert (refused.status_code, "done" in refused.text) == (409, True)
    quick.drop("rubbish.png", b"no picture")
    (job,) = quick.until_settled("rubbish.png", "failed")
    (quick.failed / "rubbish.png").unlink()
    refused = quick.post(f"/api/jobs/{job['id']}/retry")
    assert (refused.status_code, "is not in" in refused.text) == (409, True)
    assert quick.post("/api/jobs/999999/cancel").status_code == 404
