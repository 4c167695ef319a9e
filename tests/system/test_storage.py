"""A share that is not mounted is neither an empty inbox nor a place for clips."""

import subprocess
import time
from pathlib import Path

from tests.system.conftest import Open
from tests.system.disks import mounted
from tests.system.studio import DRAFT, Studio, names, picture, visible

TOLD = "is the share of inbox inbox mounted"
ROLES = ("inbox", "outbox", "archive", "failed")
SETTINGS = """\
min_free = 0
scan_interval = 0.2

[queue]
backoff = 0.1

[model]
devices = ["cpu"]

[[inbox]]
path = "share/inbox"
outbox = "share/outbox"
archive = "share/archive"
failed = "share/failed"
stability_delay = 0.2
"""
STEADY = '[match]\nnames = ["steady*"]\n\n' + DRAFT.replace("camera zooming in slowly", "steady")


def on_a_share(studio: Studio) -> tuple[Path, Path]:
    """Settings for folders on a share: where it is mounted, and what is in it."""
    share, store = studio.root / "share", studio.root / "store"
    for role in ROLES:
        (share / role).mkdir(parents=True)
        (store / role).mkdir(parents=True)
        setattr(studio, role, share / role)
    studio.settings(SETTINGS)
    studio.rule("10-steady", STEADY)
    return share, store


def test_while_a_share_is_away_nothing_is_cancelled_taken_or_made(quick_in: Open) -> None:
    studio = quick_in()
    share, store = on_a_share(studio)
    paths = ["steady-1.png", "steady-2.png", "steady-3.png"]
    with mounted(share, "--bind", store):
        studio.start()
        for number, path in enumerate(paths):
            studio.drop(path, picture(number))
        studio.until(lambda: len(studio.jobs()) == 3, "all are jobs, and one is being made")
        subprocess.run(["umount", "--lazy", share], check=True)
        studio.until(lambda: not studio.is_ready(), "it says so")
        studio.until(lambda: studio.slot()["job"] is None, "what was running is given back")
    stray = studio.drop("stray.png", picture(9))
    for _ in range(2):  # as it runs, and after a start without the share
        studio.until(lambda: "intake paused" in studio.log_file.read_text(), "the log says so")
        studio.until(lambda: TOLD in str(studio.get("/api/status")["problems"]), "and the page")
        assert studio.metric("i2vd_storage_ok", inbox="inbox") == 0
        assert studio.metric("i2vd_inbox_available", inbox="inbox") == 0
        time.sleep(2.5)  # a look at the room, a claim and some scans
        assert {job["path"]: job["state"] for job in studio.jobs()} == dict.fromkeys(
            paths, "queued"
        )
        studio.stop()
        studio.log_file.unlink()
        studio.start(ready=False)
        studio.until(studio.is_alive, "it runs")
    stray.unlink()
    with mounted(share, "--bind", store):
        for path in paths:
            studio.until_settled(path, "done")
        studio.until(studio.is_ready, "all is well again")
        assert names(store / "archive") == paths
        assert studio.clips() == ["steady-1.mp4", "steady-2.mp4", "steady-3.mp4"]
        studio.stop()
    assert list(visible(share, "*.*")) == [], "nothing was put beneath the share"
