"""What one folder or one file refuses: its own jobs wait with the reason, all others go on."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.field.runner import UNPRIVILEGED
from tests.system.conftest import STEADY, Open
from tests.system.disks import mounted, odd_folder
from tests.system.needs import missing
from tests.system.studio import Studio, names, picture, visible

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def immutable(path: Path) -> Iterator[None]:
    if subprocess.run(["chattr", "+i", path], check=False, capture_output=True).returncode:
        missing("no file can be made immutable here; run this test as root, on ext4")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", path], check=True)


def until_waiting(studio: Studio, path: str) -> str:
    """Wait until a job waits for a reason of its own, and return the reason."""
    studio.until(lambda: [job for job in studio.jobs(path) if job["waits"]], f"{path} waits")
    return str(studio.job(path)["error"])


def test_what_one_folder_refuses_holds_up_its_own_jobs_alone(quick_in: Open) -> None:
    studio = quick_in(prefix=UNPRIVILEGED).start()
    (studio.outbox / "theirs").mkdir(mode=0o555)
    (studio.outbox / "closed").mkdir(mode=0o000)
    (studio.outbox / "file").write_text("a person's")
    folders = ("theirs", "closed", "file", "theirs/deep")
    for number, folder in enumerate(folders):
        studio.drop(f"{folder}/a.png", picture(number))
    reasons = {folder: until_waiting(studio, f"{folder}/a.png") for folder in folders}
    studio.drop("other.png", picture(9))
    studio.until_settled("other.png", "done")
    assert studio.is_ready()
    for folder, reason in reasons.items():
        assert reason.endswith(f": {studio.outbox}/{folder.partition('/')[0]}"), reason
    time.sleep(5)  # two tries more
    waiting = [line["reason"] for line in studio.log() if line["event"] == "job waiting"]
    assert sorted(waiting) == sorted(reasons.values()), "each reason is told once"
    assert {job["path"] for job in studio.get("/api/jobs", waiting=True)} == {
        f"{folder}/a.png" for folder in folders
    }
    assert {job["attempt"] for job in studio.jobs() if job["waits"]} == {1}, "no try for nothing"
    listed = studio.command("jobs", "--waiting").stdout
    assert "outbox/theirs" in listed
    assert "other.png" not in listed
    studio.kill()  # nor does a restart help, or harm
    studio.start()
    assert studio.is_ready()
    (studio.outbox / "theirs").chmod(0o755)
    assert studio.post(f"/api/jobs/{studio.job('theirs/a.png')['id']}/retry").is_success
    assert studio.post(f"/api/jobs/{studio.job('closed/a.png')['id']}/cancel").is_success
    (studio.outbox / "file").unlink()
    for folder in ("theirs", "file", "theirs/deep"):
        (job,) = studio.until_settled(f"{folder}/a.png", "done")
        assert (job["failures"], job["error"], job["waits"]) == (0, None, 0)
    studio.until_settled("closed/a.png", "cancelled")
    (studio.outbox / "closed").chmod(0o755)


def test_a_mount_in_the_outbox_holds_up_its_own_jobs_alone(quick_in: Open) -> None:
    studio = quick_in().start()
    with (
        mounted(studio.outbox / "ro", "-t", "tmpfs", "-o", "ro", "tmpfs"),
        mounted(studio.outbox / "full", "-t", "tmpfs", "-o", "nr_inodes=1", "tmpfs"),
    ):
        studio.drop("ro/a.png", picture(1))
        studio.drop("full/a.png", picture(2))
        assert until_waiting(studio, "ro/a.png").endswith("/outbox/ro")
        assert until_waiting(studio, "full/a.png").endswith("/outbox/full")
        studio.drop("other.png", picture(3))
        studio.until_settled("other.png", "done")
        assert studio.is_ready()


@pytest.fixture
def blocked(quick_in: Open) -> Iterator[Studio]:
    """A daemon with a clip past the fence, whose folder refuses it."""
    studio = quick_in()
    studio.rule("10-slow", STEADY)
    studio.start()
    album = studio.outbox / "album"
    album.mkdir()
    studio.drop("album/slow.png", picture(1))
    studio.until_state("album/slow.png", "running")
    time.sleep(0.7)  # its folder was looked at
    with immutable(album):
        studio.until_state("album/slow.png", "publishing")
        assert until_waiting(studio, "album/slow.png").endswith(f": {album}")
        assert studio.is_ready()
        studio.drop("other.png", picture(2))
        studio.until_settled("other.png", "done")
        yield studio


def mend(studio: Studio) -> None:
    subprocess.run(["chattr", "-i", studio.outbox / "album"], check=True)


def test_a_blocked_publication_is_cancelled_without_a_trace(blocked: Studio) -> None:
    number = blocked.job("album/slow.png")["id"]
    assert blocked.post(f"/api/jobs/{number}/cancel").is_success
    (job,) = blocked.until_settled("album/slow.png", "cancelled")
    assert job["error"] == "cancelled by the operator"
    assert names(blocked.outbox / "album") == []
    blocked.until(lambda: not blocked.staging(), "no staging is left")
    assert (blocked.failed / "album" / "slow.png").is_file()
    mend(blocked)
    assert blocked.post(f"/api/jobs/{number}/retry").is_success
    blocked.until_settled("album/slow.png", "done")
    assert "album/slow.mp4" in blocked.clips()


def test_a_blocked_publication_is_tried_at_once_when_asked(blocked: Studio) -> None:
    number = blocked.job("album/slow.png")["id"]
    blocked.until(lambda: blocked.job("album/slow.png")["waits"] >= 3, "its delay has grown")
    mend(blocked)
    assert blocked.command("retry", str(number)).stdout == f"job {number} is publishing\n"
    blocked.until_state("album/slow.png", "done")
    assert blocked.events(number).count("publication_blocked") == 1


def test_a_clip_that_was_lost_before_publication_is_made_again(blocked: Studio) -> None:
    blocked.kill()
    shutil.rmtree(blocked.outbox / ".i2vd")
    mend(blocked)
    blocked.start()
    (job,) = blocked.until_settled("album/slow.png", "done")
    assert (job["attempt"], job["failures"]) == (2, 0)
    assert names(blocked.outbox / "album") == ["slow.mp4", "slow.mp4.json"]


ODD_NAMES = {
    "Screen Shot at 10:00:00.png": "Screen Shot at 10_00_00",
    "10:30/what? <this>.png": "10_30/what_ _this_",
    "a_b.png": "a_b",
    "a:b.png": "a_b-2",
    "絵:日記.png": "絵_日記",
}


def test_a_name_is_spelled_as_the_folder_takes_it(quick_in: Open) -> None:
    studio = quick_in()
    with contextlib.ExitStack() as stack:
        for folder in (studio.outbox, studio.archive, studio.failed):
            stack.enter_context(odd_folder(folder, refuses=':?*<>|"'))
        studio.start()
        for number, name in enumerate(ODD_NAMES):
            studio.drop(name, picture(number))
            studio.until_settled(name, "done")
        studio.drop("not: a picture.png", b"rubbish")
        studio.until_settled("not: a picture.png", "failed")
        assert studio.is_ready()
        assert studio.clips() == sorted(f"{stem}.mp4" for stem in ODD_NAMES.values())
        told = {job["path"]: job["result"]["clip"] for job in studio.jobs() if job["result"]}
        for name, stem in ODD_NAMES.items():
            assert told[name] == str(studio.outbox / f"{stem}.mp4")
            assert (studio.archive / f"{stem}.png").is_file()
        assert "picture" in studio.reason("not_ a picture.png")
        assert studio.stop() == 0


def test_only_the_content_must_arrive(quick_in: Open) -> None:
    studio = quick_in()
    flags = ("no_permissions", "no_links")
    with contextlib.ExitStack() as stack:
        for folder in (studio.outbox, studio.archive, studio.failed):
            stack.enter_context(odd_folder(folder, flags=flags))
        studio.start()
        studio.drop("cat.png", picture(1))
        studio.drop("rubbish.png", b"no picture")
        studio.until_settled("cat.png", "done")
        studio.until_settled("rubbish.png", "failed")
        assert (studio.archive / "cat.png").read_bytes() == picture(1)
        assert (studio.failed / "rubbish.png").read_bytes() == b"no picture"
        assert studio.clips() == ["cat.mp4"]
        assert studio.is_ready()
        for folder in (studio.archive, studio.failed, studio.inbox):
            assert [*folder.rglob("*.part")] == []
        assert len(studio.jobs()) == 2, "none came back as another"
        assert studio.stop() == 0


def test_a_picture_that_cannot_be_archived_waits_alone(quick_in: Open) -> None:
    studio = quick_in().start()
    stuck = studio.drop("stuck.png", picture(1))
    (studio.archive / "album").mkdir()
    with immutable(stuck), immutable(studio.archive / "album"):
        studio.drop("album/a.png", picture(2))
        studio.drop("album/b.png", picture(3))
        for name in ("stuck.png", "album/a.png", "album/b.png"):
            studio.until_state(name, "done")
        studio.drop("other.png", picture(4))
        studio.until_settled("other.png", "done")
        studio.until(lambda: len(studio.get("/api/jobs", waiting=True)) == 3, "all three wait")
        assert studio.is_ready()
        told = {job["path"]: job["archival_error"] for job in studio.jobs()}
        assert str(told["stuck.png"]).endswith(f": {stuck}")
        assert str(told["album/a.png"]).endswith(f": {studio.archive}/album")
        assert told["other.png"] is None
        time.sleep(4)
        assert [each["event"] for each in studio.log()].count(
            "picture not archived, kept in the inbox"
        ) == 2, "one for each reason"
        assert "archival_blocked" in studio.events(studio.job("stuck.png")["id"])
    for name in ("stuck.png", "album/a.png", "album/b.png"):
        (job,) = studio.until_settled(name, "done")
        assert job["archival_error"] is None
    assert len([*visible(studio.archive, "*.png")]) == 4
