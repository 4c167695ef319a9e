"""Disks that fill up, go read-only or break, under the real daemon: work stops, waits, goes on."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import httpx2
import pytest

from daemon.storage.ownership import OWNER
from daemon.storage.volumes import MARKER
from tests.system import disks
from tests.system.conftest import Open
from tests.system.needs import needs
from tests.system.studio import Studio, names, picture

pytestmark = pytest.mark.slow

LEAST = 8 * 2**20
"""The low-water mark of these studios."""


@pytest.fixture
def on_disks(quick_in: Open) -> Iterator[Callable[..., Studio]]:
    """Makes a studio with some of its folders on disks of their own."""
    with contextlib.ExitStack() as stack:

        def make(
            *names: str,
            disk: Callable[[Path], AbstractContextManager[Path]] = disks.tmpfs,
            min_free: int = LEAST,
        ) -> Studio:
            studio = quick_in(min_free=f"{min_free}B")
            for name in names:
                stack.enter_context(disk(studio.root / name))
            return studio

        yield make


def stops_and_goes_on(
    studio: Studio, spoil: Callable[[], Callable[[], object]], *words: str, by_work: bool = False
) -> None:
    """Spoil a running studio: it says so once and waits; mended, it goes on where it was.

    `by_work`: only an attempt can find out.
    """
    mark = len(studio.log())
    mend = spoil()
    during = f"during-{mark}"
    if by_work:
        studio.drop(f"{during}.png", picture(mark))
    studio.until(lambda: not studio.is_ready(), "it is not ready")
    if not by_work:
        studio.drop(f"{during}.png", picture(mark))
    problems = studio.request("GET", "/readyz").text
    assert all(word in problems for word in words), problems
    assert studio.metric("i2vd_storage_ok", inbox="inbox") == 0
    time.sleep(2.5)  # a turn of every loop
    assert studio.is_alive()
    told = [line for line in studio.log()[mark:] if line["level"] == "error"]
    assert len(told) == 1, told
    assert f"{during}.mp4" not in studio.clips()
    mend()
    (job,) = studio.until_settled(f"{during}.png", "done")
    studio.until(studio.is_ready, "it is ready again")
    assert job["failures"] == 0
    assert studio.metric("i2vd_storage_ok", inbox="inbox") == 1
    studio.until(lambda: not studio.staging(), "no staging is left")


def test_little_space_stops_new_work_before_a_disk_is_full(
    on_disks: Callable[..., Studio],
) -> None:
    names = ("outbox", ".i2vd", "inbox")
    studio = on_disks(*names).start()
    for name in names:
        folder = studio.root / name

        def spoil(folder: Path = folder) -> Callable[[], object]:
            return disks.fill(folder, leave=LEAST // 2).unlink

        stops_and_goes_on(studio, spoil, str(folder), "MB free", "min_free", "make room")

    def few_inodes() -> Callable[[], object]:
        files = disks.fill_names(studio.outbox, leave=50)
        return lambda: [file.unlink() for file in files]

    stops_and_goes_on(studio, few_inodes, str(studio.outbox), "inodes")
    assert {job["attempt"] for job in studio.jobs()} == {1}
    disks.fill(studio.outbox, leave=LEAST // 2)
    checked = studio.command("check")
    assert (checked.returncode, "less than min_free" in checked.stdout) == (2, True)


@pytest.mark.parametrize("name", ["outbox", ".i2vd"])
def test_a_full_disk_costs_no_try(on_disks: Callable[..., Studio], name: str) -> None:
    studio = on_disks(name, min_free=0).start()

    def spoil() -> Callable[[], object]:
        return disks.fill(studio.root / name, leave=0).unlink

    words = "disk" if name == ".i2vd" else "pace left on device"
    stops_and_goes_on(studio, spoil, words, by_work=True)


def test_a_full_archive_keeps_nothing_but_the_pictures_waiting(
    on_disks: Callable[..., Studio],
) -> None:
    studio = on_disks("archive", min_free=0).start()
    ballast = disks.fill(studio.archive, leave=0)
    studio.drop("cat.png", picture(1))
    studio.until_state("cat.png", "done")
    studio.until(lambda: not studio.is_ready(), "it says so")
    assert "cannot leave the inbox" in studio.request("GET", "/readyz").text
    studio.drop("dog.png", picture(2))
    studio.until_state("dog.png", "done")
    assert len([line for line in studio.log() if line["level"] == "error"]) == 1
    ballast.unlink()
    for name in ("cat.png", "dog.png"):
        studio.until_settled(name, "done")
    studio.until(studio.is_ready, "it is ready again")
    assert names(studio.archive) == ["cat.png", "dog.png"]


def test_a_full_inbox_keeps_no_picture_that_is_whole_from_its_clip(
    on_disks: Callable[..., Studio],
) -> None:
    studio = on_disks("inbox", min_free=0).start()
    studio.post("/api/pause")
    studio.drop("cat.png", picture(1))
    studio.drop("rubbish.png", b"no picture")
    studio.until_state("cat.png", "queued")
    ballast = disks.fill(studio.inbox, leave=0)
    studio.post("/api/resume")
    (job,) = studio.until_settled("cat.png", "done")
    assert job["failures"] == 0
    studio.until_settled("rubbish.png", "failed")
    assert (studio.archive / "cat.png").is_file()
    answer = httpx2.post(
        f"http://127.0.0.1:{studio.port}/api/jobs",
        files={"picture": ("dog.bmp", picture(2, (300, 300), "BMP"))},
        trust_env=False,
    )
    assert (answer.status_code, "no room for the upload" in answer.text) == (507, True), answer.text
    left = [path.name for path in studio.inbox.iterdir() if path.name not in (MARKER, OWNER)]
    assert left == [ballast.name]


@pytest.mark.parametrize("spoilt", ["full", "read-only"])
def test_a_daemon_started_on_a_spoilt_disk_waits_for_it(
    on_disks: Callable[..., Studio], spoilt: str
) -> None:
    studio = on_disks(".i2vd", min_free=0).start()
    assert studio.stop() == 0
    state = studio.root / ".i2vd"
    if spoilt == "full":
        mend = disks.fill(state, leave=0).unlink
    else:
        disks.mount("-o", "remount,ro", state)
        mend = partial(disks.mount, "-o", "remount,rw", state)
    studio.drop("late.png", picture(3))
    studio.start(ready=False)
    studio.until(lambda: "queue unavailable, daemon waiting" in studio.log_tail(), "it waits")
    mend()
    studio.until(studio.is_ready, "it is ready")
    (job,) = studio.until_settled("late.png", "done")
    assert (job["attempt"], job["failures"]) == (1, 0)


def test_a_disk_that_turns_read_only_is_waited_for(on_disks: Callable[..., Studio]) -> None:
    names = ("outbox", "inbox")
    studio = on_disks(*names).start()
    for name in names:
        studio.drop(f"{name}.png", picture(4))
        studio.until(lambda: studio.jobs(f"{name}.png"), "it is seen")  # noqa: B023
        disks.mount("-o", "remount,ro", studio.root / name)
        studio.until(lambda: not studio.is_ready(), "it is not ready")
        studio.until(lambda: "read-only" in studio.request("GET", "/readyz").text, "it says why")
        disks.mount("-o", "remount,rw", studio.root / name)
        studio.until(studio.is_ready, "it is ready again")
        (job,) = studio.until_settled(f"{name}.png", "done")
        assert job["failures"] == 0


def test_a_state_folder_that_turns_read_only_costs_no_try(on_disks: Callable[..., Studio]) -> None:
    """The kernel does so after an error of the disk; it lasts until somebody repairs the disk."""
    disk = partial(disks.ext4, options="loop,errors=remount-ro")
    studio = on_disks(".i2vd", disk=disk).start()
    studio.drop("before.png", picture(1))
    studio.until_settled("before.png", "done")
    mark = len(studio.log())
    disks.turn_ext4_read_only(studio.root / ".i2vd")
    studio.drop("cat.png", picture(2))
    studio.until(lambda: not studio.is_ready(), "it is not ready")
    assert "read" in studio.request("GET", "/readyz").text
    time.sleep(2.5)  # a turn of every loop
    assert studio.is_alive()
    assert len([line for line in studio.log()[mark:] if line["level"] == "error"]) == 1
    assert studio.clips() == ["before.mp4"]
    studio.kill()
    disks.repair_ext4(studio.root / ".i2vd")
    studio.start()
    (job,) = studio.until_settled("cat.png", "done")
    assert job["failures"] == 0
    assert studio.clips() == ["before.mp4", "cat.mp4"]


@pytest.mark.parametrize("name", ["outbox", ".i2vd"])
def test_a_quota_that_is_used_up_costs_no_try(on_disks: Callable[..., Studio], name: str) -> None:
    studio = on_disks(name, disk=disks.btrfs, min_free=0).start()
    folder = studio.root / name

    def spoil() -> Callable[[], object]:
        disks.set_quota(folder, "8M")
        with pytest.raises(OSError, match="quota"), (folder / ".ballast").open("wb") as ballast:
            while True:
                ballast.write(bytes(65536))
                ballast.flush()
                os.fsync(ballast.fileno())
        return lambda: disks.set_quota(folder, "none")

    stops_and_goes_on(studio, spoil, "disk" if name == ".i2vd" else "quota", by_work=True)


def test_uploads_lie_in_the_state_folder_while_they_come(quick_in: Open, tmp_path: Path) -> None:
    """A small /tmp takes nothing from them; a full state folder is told as what it is."""
    studio = quick_in(TMPDIR=str(tmp_path / "tmp"))
    cat = picture(1, (1500, 1500), "BMP")  # 6.75 MB: more than is kept in memory

    def send(name: str) -> httpx2.Response:
        url = f"http://127.0.0.1:{studio.port}/api/jobs"
        return httpx2.post(url, files={"picture": (name, cat)}, timeout=30, trust_env=False)

    state = studio.root / ".i2vd"
    with disks.tmpfs(tmp_path / "tmp", size="64k"), disks.tmpfs(state, size="24m"):
        studio.start()
        assert send("cat.bmp").status_code == 202
        studio.until_settled("cat.bmp", "done")
        ballast = disks.fill(state, leave=2**21)
        before = sorted(state.iterdir())
        answer = send("dog.bmp")
        assert (answer.status_code, "no room for the upload" in answer.text) == (507, True)
        assert names(studio.inbox) == []
        assert sorted(state.iterdir()) == before
        ballast.unlink()
        assert send("dog.bmp").status_code == 202
        studio.until_settled("dog.bmp", "done")
        studio.close()


def break_outbox(studio: Studio) -> Callable[[], object]:
    """What was not written yet is lost with it; returns what mends it."""
    disks.break_ext4(studio.outbox)

    def mend() -> None:
        subprocess.run(["umount", str(studio.outbox)], check=True)
        disks.mount("-o", "loop", studio.outbox.with_name("outbox.img"), studio.outbox)

    return mend


def test_a_disk_that_breaks_is_waited_for(on_disks: Callable[..., Studio]) -> None:
    studio = on_disks("outbox", disk=disks.ext4).start()
    studio.drop("before.png", picture(6))
    studio.until_settled("before.png", "done")
    stops_and_goes_on(studio, partial(break_outbox, studio), "Input/output error", by_work=True)


def test_what_comes_back_with_a_broken_disk_is_removed(on_disks: Callable[..., Studio]) -> None:
    studio = on_disks("outbox", disk=disks.ext4).start()
    studio.drop("before.png", picture(6))
    studio.until_settled("before.png", "done")
    mend = break_outbox(studio)
    studio.until(lambda: not studio.is_ready(), "it is not ready, though nothing was to be made")
    mend()
    assert studio.staging() == ["1-1"]  # its removal was not written yet
    studio.until(lambda: not studio.staging(), "it is removed again")
    assert studio.is_ready()
    assert studio.clips() == ["before.mp4"]


@pytest.mark.parametrize(("call", "error"), [("fsync", "EDQUOT"), ("fdatasync", "EIO")])
def test_a_failing_sync_costs_no_try(quick_in: Open, call: str, error: str) -> None:
    """fsync is what the folders of clips get, fdatasync what SQLite does."""
    strace = needs("strace", package="strace")
    studio = quick_in().start()
    studio.drop("warm.png", picture(7))
    studio.until_settled("warm.png", "done")
    tracer = subprocess.Popen(
        [strace, "-f", "-qq", "-o", os.devnull, "-p", str(studio.pid), "-e", f"trace={call}",
         "-e", f"inject={call}:error={error}"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        studio.drop("cat.png", picture(8))
        studio.until(lambda: not studio.is_ready(), "it is not ready")
        time.sleep(1)
        assert "cat.mp4" not in studio.clips()
    finally:
        tracer.send_signal(signal.SIGTERM)
        tracer.wait()
    (job,) = studio.until_settled("cat.png", "done")
    assert job["failures"] == 0
    assert studio.clips() == ["cat.mp4", "warm.mp4"]
    assert studio.staging() == []
