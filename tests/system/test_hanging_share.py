"""A share that hangs delays its own inboxes alone."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.system.conftest import STEADY, Open
from tests.system.disks import hanging, odd_folder
from tests.system.studio import Studio, picture

FAR = ("far", "further")
SETTINGS = """\
min_free = 0
scan_interval = 0.5

[queue]
backoff = 0.1

[model]
devices = ["cpu"]

[[inbox]]
stability_delay = 0.2
"""
ON_THE_SHARE = """
[[inbox]]
name = "{name}"
path = "share/{name}/inbox"
outbox = "share/{name}/outbox"
archive = "share/{name}/archive"
failed = "share/{name}/failed"
stability_delay = 0.2
"""


def is_made(studio: Studio, name: str) -> None:
    """Drop a picture into the inbox that does not hang, and wait for its clip."""
    started = time.monotonic()
    studio.drop(f"{name}.png", picture(len(name)))
    studio.until(lambda: f"{name}.mp4" in studio.clips(), f"{name} is made", seconds=20)
    assert time.monotonic() - started < 10, "within seconds"


def test_a_share_that_hangs_delays_its_own_inboxes_alone(quick_in: Open) -> None:
    studio = quick_in()
    studio.rule("10-steady", STEADY)
    studio.settings(SETTINGS + "".join(ON_THE_SHARE.format(name=name) for name in FAR))
    share = studio.root / "share"

    def told() -> bool:
        problems = str(studio.get("/api/status")["problems"])
        return all(f"inbox {name}: inbox {share}/{name}" in problems for name in FAR)

    with odd_folder(share) as backing:
        studio.start()
        (share / "far" / "inbox" / "first.png").write_bytes(picture(1))
        studio.until_state("first.png", "done")
        (share / "far" / "inbox" / "slow.png").write_bytes(picture(3))
        studio.until_denoising("slow.png")
        with hanging(share):  # while the worker makes a clip that it cannot write
            studio.drop("near.png", picture(4))
            studio.until(lambda: "near.mp4" in studio.clips(), "the worker is free", seconds=40)
            assert studio.http.get("/healthz").status_code == 200
            studio.until(lambda: not studio.is_ready(), "it says so", seconds=30)
            studio.until(told, "all are named", seconds=10)
            assert "does not answer" in studio.http.get("/readyz").text
            assert studio.metric("i2vd_storage_ok", inbox="far") == 0
            assert studio.metric("i2vd_storage_ok", inbox="inbox") == 1
            assert studio.metric("i2vd_free_bytes", inbox="far") > 0, "as at the last look"
            first = studio.job("first.png")["id"]
            assert studio.http.get(f"/api/jobs/{first}/clip").status_code == 503
            is_made(studio, "nearer")
            assert studio.job("slow.png")["state"] == "queued"
            (backing / "far" / "inbox" / "waiting.png").write_bytes(picture(2))
            studio.signal(signal.SIGTERM)
            assert studio.wait(20) == 0
            paused = [each["inbox"] for each in studio.log() if each["event"] == "intake paused"]
            assert sorted(paused) == sorted(FAR), "once each"

            studio.start(ready=False)
            check = subprocess.Popen(
                [sys.executable, "-m", "daemon", "check"],
                cwd=studio.root, env=studio.variables(), stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            studio.until(studio.is_alive, "it starts all the same", seconds=40)
            assert told()
            is_made(studio, "nearest")
            out, _ = check.communicate(timeout=40)
            assert check.returncode == 2
            assert f"further: folders: inbox {share}/further/inbox: does not answer" in out
        studio.until_state("waiting.png", "done")
        studio.until_state("slow.png", "done")
        assert studio.job("slow.png")["failures"] == 0
        studio.until(studio.is_ready, "all is well again")
        assert (backing / "far" / "outbox" / "waiting.mp4").is_file()
        assert studio.stop() == 0
    assert Path(studio.archive / "near.png").is_file()
