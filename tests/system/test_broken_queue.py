"""The queue's database locked, damaged, deleted, cut short, too new: said clearly, no harm done."""

import sqlite3
from pathlib import Path

import pytest

from tests.daemon.jobs.test_unreadable import COLUMNS, DAMAGE, HARMLESS
from tests.system import disks
from tests.system.conftest import Open
from tests.system.studio import DRAFT, Studio, names, picture

pytestmark = pytest.mark.slow

LONG = DRAFT.replace("camera zooming in slowly", "long")
"""A clip that takes the stand-in three seconds."""


def queue(studio: Studio) -> Path:
    return studio.root / ".i2vd" / "queue.sqlite"


def refused(studio: Studio) -> str:
    """What a daemon says that does not start, and that it leaves all files as they were."""
    before = {file.name: file.read_bytes() for file in queue(studio).parent.glob("queue*")}
    ended = studio.command("run")
    after = {file.name: file.read_bytes() for file in queue(studio).parent.glob("queue*")}
    assert after["queue.sqlite"] == before["queue.sqlite"]
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    return ended.stderr


def test_a_locked_queue_is_waited_for(quick_in: Open) -> None:
    studio = quick_in().start()
    intruder = sqlite3.connect(queue(studio), isolation_level=None)
    intruder.execute("BEGIN IMMEDIATE")
    studio.drop("cat.png", picture(1))
    studio.until(lambda: not studio.is_ready(), "it is not ready")
    assert "locked" in studio.request("GET", "/readyz").text
    answer = studio.post("/api/pause")
    assert (answer.status_code, "locked" in answer.text) == (503, True)
    assert "i2vd_ready 0.0" in studio.request("GET", "/metrics").text
    intruder.execute("ROLLBACK")
    intruder.close()
    (job,) = studio.until_settled("cat.png", "done")
    studio.until(studio.is_ready, "it is ready again")
    assert (job["attempt"], job["failures"]) == (1, 0)


def test_a_queue_that_cannot_be_read_is_left_as_it_is(quick_in: Open) -> None:
    studio = quick_in().start()
    studio.drop("cat.png", picture(2))
    studio.until_settled("cat.png", "done")
    studio.stop()
    whole = queue(studio).read_bytes()

    with sqlite3.connect(queue(studio)) as db:
        db.execute("update meta set value = '999' where key in ('schema_version', 'oldest_schema')")
    db.close()
    told = refused(studio)
    assert "schema 999" in told
    assert "install" in told

    queue(studio).write_bytes(b"no database" * 1000)
    told = refused(studio)
    for word in ("damaged", "queue.sqlite", "move", "inboxes"):
        assert word in told, told
    assert studio.command("check").returncode == 2

    queue(studio).write_bytes(whole)
    studio.start()
    assert [job["state"] for job in studio.jobs()] == ["done"]


def test_a_queue_damaged_under_the_daemon_stops_work_and_loses_no_picture(quick_in: Open) -> None:
    studio = quick_in().start()
    studio.drop("before.png", picture(3))
    studio.until_settled("before.png", "done")
    studio.stop()
    studio.start()
    with queue(studio).open("r+b") as file:
        file.write(b"\xa5" * queue(studio).stat().st_size)
    studio.drop("after.png", picture(4))
    studio.until(lambda: "damaged" in studio.request("GET", "/readyz").text, "it says so")
    assert studio.is_alive()
    assert (studio.inbox / "after.png").is_file()
    studio.kill()
    for file in queue(studio).parent.glob("queue*"):
        file.unlink()
    studio.start()
    studio.until_settled("after.png", "done")
    assert studio.clips() == ["after.mp4", "before.mp4"]
    assert names(studio.archive) == ["after.png", "before.png"]


def test_a_queue_deleted_under_the_daemon_loses_and_doubles_nothing(quick_in: Open) -> None:
    studio = quick_in()
    studio.rule("10-long", '[match]\nnames = ["long*"]\n\n' + LONG)
    studio.start()
    studio.drop("done.png", picture(5))
    studio.until_settled("done.png", "done")
    studio.drop("long.png", picture(6))
    studio.until_state("long.png", "running")
    studio.drop("waiting.png", picture(7))
    studio.until_state("waiting.png", "queued")
    for file in queue(studio).parent.glob("queue*"):
        file.unlink()
    assert studio.wait() == 1
    assert "deleted or replaced" in studio.log_tail()
    assert studio.clips() == ["done.mp4", "long.mp4"], "what was in hand is finished"
    assert (studio.inbox / "waiting.png").is_file()
    studio.start()
    studio.until_settled("waiting.png", "done")
    assert studio.clips() == ["done.mp4", "long.mp4", "waiting.mp4"]
    assert names(studio.archive) == ["done.png", "long.png", "waiting.png"]


@pytest.mark.parametrize("left", [0.0, 0.5])
def test_a_queue_whose_log_is_cut_short_loses_no_picture(quick_in: Open, left: float) -> None:
    studio = quick_in().start()
    studio.drop("first.png", picture(8))
    studio.until_settled("first.png", "done")
    studio.post("/api/pause")
    studio.drop("second.png", picture(9))
    studio.until_state("second.png", "queued")
    studio.kill()
    log = queue(studio).with_name("queue.sqlite-wal")
    with log.open("r+b") as file:
        file.truncate(int(log.stat().st_size * left))
    studio.start().post("/api/resume")
    studio.until_settled("second.png", "done")
    assert studio.clips() == ["first.mp4", "second.mp4"]
    assert names(studio.archive) == ["first.png", "second.png"]


def test_a_queue_on_a_network_share_is_refused(quick_in: Open) -> None:
    studio = quick_in()
    with disks.sshfs(studio.root / ".i2vd"):
        ended = studio.command("run")
        assert ended.returncode == 2
        assert "SQLite is not safe on fuse.sshfs" in ended.stderr
        assert "local disk" in ended.stderr
        assert list((studio.root / ".i2vd").iterdir()) == []
        assert "not safe" in studio.command("check").stdout


def test_rows_that_cannot_be_read_cost_themselves_only(quick_in: Open) -> None:
    studio = quick_in().start()
    studio.post("/api/pause")
    for number, _ in enumerate(DAMAGE):
        studio.drop(f"{number:02}.png", picture(number))
    studio.until(lambda: len(studio.jobs()) == len(DAMAGE), "all are queued")
    studio.stop()
    with sqlite3.connect(queue(studio)) as db:
        for number, sql in enumerate(DAMAGE.values()):
            db.execute(f"UPDATE jobs SET {sql} WHERE path = '{number:02}.png'")
    db.close()

    studio.start().post("/api/resume")
    studio.drop("sound.png", picture(99))
    studio.until_settled("sound.png", "done")
    assert studio.is_ready()
    with sqlite3.connect(queue(studio)) as db:
        rows = db.execute("SELECT state, error FROM jobs WHERE path != 'sound.png'").fetchall()
    db.close()
    refused = [error for state, error in rows if state == "failed"]
    assert len(refused) == len(DAMAGE) - len(HARMLESS)
    assert all(error.startswith("its row cannot be read: ") for error in refused)
    for path in ("/api/jobs?text=x", "/api/status", "/api/hosts", "/metrics", "/"):
        assert studio.request("GET", path).status_code == 200, path
    listed = [
        line["job"] for line in studio.log() if line["event"] == "job row unreadable, left out"
    ]
    assert len(listed) == len(set(listed)), "told once"
    assert studio.command("jobs").returncode == 0

    with sqlite3.connect(queue(studio)) as db:  # and while it runs
        db.execute("UPDATE jobs SET spec = '{', result = '[', progress = '5' WHERE state = 'done'")
    db.close()
    studio.drop("another.png", picture(98))
    studio.until_settled("another.png", "done")
    assert studio.stop() == 0
    assert "Traceback" not in studio.log_file.read_text()


def test_rows_with_blobs_are_left_out_of_every_answer(quick_in: Open) -> None:
    studio = quick_in().start()
    for name in ("done.png", "sound.png"):
        studio.drop(name, picture(len(name)))
        studio.until_settled(name, "done")
    studio.post("/api/pause")
    studio.drop("waiting.png", picture(50))
    studio.until_state("waiting.png", "queued")
    (done,), (waiting,) = (
        [job["id"] for job in studio.jobs() if job["path"] == name]
        for name in ("done.png", "waiting.png")
    )
    lists = ("/api/jobs", "/api/jobs?state=done", "/api/jobs?text=n", "/api/queue", "/api/status")
    lists += ("/api/hosts", "/metrics", "/api/skipped")
    parts = ("", "/events", "/clip", "/sidecar", "/picture")
    with sqlite3.connect(queue(studio), isolation_level=None) as db:
        for column in COLUMNS:
            if column == "cancel":
                continue
            for job in (done, waiting):
                (kept,) = db.execute(f'SELECT "{column}" FROM jobs WHERE id = {job}').fetchone()
                db.execute(f"UPDATE jobs SET \"{column}\" = x'ff' WHERE id = {job}")
                for path in lists:
                    answer = studio.request("GET", path)
                    assert answer.status_code == 200, (column, path, answer.text)
                for part in parts:
                    answer = studio.request("GET", f"/api/jobs/{job}{part}")
                    assert answer.status_code == 409, (column, part, answer.text)
                    assert "its row cannot be read" in answer.text
                assert job not in [each["id"] for each in studio.jobs()]
                db.execute(f'UPDATE jobs SET "{column}" = ? WHERE id = {job}', (kept,))
        db.execute(f"UPDATE jobs SET spec = '[' WHERE id = {waiting}")
        assert studio.request("GET", "/api/status").status_code == 200
        db.execute(f"UPDATE jobs SET error = x'ff', rule = x'ff' WHERE id = {done}")
    db.close()
    assert studio.stop() == 0
    studio.start().post("/api/resume")
    studio.drop("another.png", picture(51))
    studio.until_settled("another.png", "done")
    assert [job["path"] for job in studio.jobs() if job["state"] == "done"] == [
        "sound.png",
        "another.png",
    ]
    assert studio.stop() == 0
    assert "Traceback" not in studio.log_file.read_text()
