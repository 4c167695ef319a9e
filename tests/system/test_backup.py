"""Backup and restore of the queue by command, with a daemon that works meanwhile."""

import pytest

from tests.system.conftest import STEADY, Open
from tests.system.studio import names, picture

pytestmark = pytest.mark.slow


def test_a_backup_taken_at_work_is_restored_and_no_clip_is_made_twice(quick_in: Open) -> None:
    studio = quick_in()
    studio.rule("10-slow", STEADY)
    studio.start()
    studio.drop("done.png", picture(1))
    studio.until_settled("done.png", "done")
    studio.drop("slow.png", picture(2))
    studio.until_state("slow.png", "running")
    studio.post("/api/pause")
    studio.drop("waiting.png", picture(3))
    studio.until_state("waiting.png", "queued")
    assert studio.command("queue", "backup", "saved").returncode == 0
    studio.post("/api/resume")
    again = studio.command("queue", "backup", "saved")
    assert (again.returncode, "exists already" in again.stderr) == (1, True)
    for name in ("slow.png", "waiting.png"):
        studio.until_settled(name, "done")
    assert studio.command("queue", "restore", "saved").returncode == 4, "the daemon runs"

    assert studio.stop() == 0
    clips = ["done.mp4", "slow.mp4", "waiting.mp4"]
    assert studio.clips() == clips
    restored = studio.command("queue", "restore", "saved")
    assert restored.returncode == 0, restored.stderr
    assert "queue.sqlite.before-restore-1" in restored.stdout
    studio.start().post("/api/resume")  # the copy is paused
    studio.until_state("waiting.png", "cancelled")
    studio.until_state("slow.png", "cancelled", "done")  # done: it was publishing then
    assert studio.job("done.png")["state"] == "done"
    studio.drop("new.png", picture(4))
    studio.until_settled("new.png", "done")
    assert studio.clips() == ["done.mp4", "new.mp4", "slow.mp4", "waiting.mp4"]
    assert names(studio.archive) == ["done.png", "new.png", "slow.png", "waiting.png"]
    assert studio.job("new.png")["id"] > 1_000_000


def test_a_queue_in_postgresql_is_backed_up_with_its_own_tools(quick_in: Open) -> None:
    studio = quick_in(I2VD_QUEUE__URL="postgresql+psycopg://i2vd@db.invalid/i2vd")
    for command in ("backup", "restore"):
        (studio.root / "restore").touch()
        ended = studio.command("queue", command, command)
        assert (ended.returncode, "pg_dump" in ended.stderr) == (2, True)
