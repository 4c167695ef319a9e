"""How pictures arrive and leave again: names, copies, replacements, renames, shares."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.hostile import slow_jpeg
from tests.system import disks
from tests.system.conftest import Open, quick_studio
from tests.system.needs import missing, needs
from tests.system.studio import DRAFT, Studio, picture

pytestmark = pytest.mark.slow

LONG = '[match]\nnames = ["long*"]\n\n' + DRAFT.replace("camera zooming in slowly", "long")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """One daemon with the stand-in worker for all tests that do it no harm."""
    folder = tmp_path_factory.mktemp("quick")
    studio = quick_studio(folder)
    studio.rule("10-long", LONG)
    try:
        yield studio.start()
    finally:
        studio.close()


@contextlib.contextmanager
def queued(studio: Studio, *names: str) -> Iterator[None]:
    """Pictures that wait in the queue meanwhile."""
    studio.post("/api/pause")
    for seed, name in enumerate(names):
        studio.drop(name, picture(seed))
        studio.until_state(name, "queued")
    yield
    studio.post("/api/resume")


def states(studio: Studio, *paths: str) -> list[str]:
    return [job["state"] for path in paths for job in studio.jobs(path)]


NAMES = [
    "two\nlines.png", "-rf.png", "--help.png", "шляпа.png", "تصویر.png", "\u202egnp.cat.png",
    "🐈🎬.png", "e\u0301te\u0301.png", "a%20b&c;d$(e)`f`.png", 'say "x".png', "x" * 251 + ".png",
    "絵" * 83 + ".png", " lead and trail .png", "[glob]*?.png", "UPPER.PNG", "a.b.c.jpeg",
]  # fmt: skip


def test_any_name_becomes_a_clip_of_that_name(quick: Studio) -> None:
    for seed, name in enumerate(NAMES):
        quick.drop(f"names/{name}", picture(seed))
    for name in NAMES:
        quick.until_settled(f"names/{name}", "done")
    clips = {Path(clip).stem for clip in quick.clips() if clip.startswith("names/")}
    stems = [Path(name).stem.replace("\n", "_").replace("\u202e", "_").strip() for name in NAMES]
    short = {stem for stem in stems if len(stem.encode()) < 240}
    assert short <= clips
    assert len(clips) == len(NAMES)
    assert {p.name for p in (quick.archive / "names").iterdir()} == set(NAMES)


def test_what_cannot_be_named_or_opened_is_listed_once(quick: Studio) -> None:
    bad = quick.inbox / os.fsdecode(b"caf\xe9.png")
    bad.write_bytes(picture(1))
    os.mkfifo(quick.inbox / "pipe.png")
    (quick.inbox / "socket.png").symlink_to("/dev/zero")
    (quick.inbox / "out").symlink_to("/usr/share")
    quick.drop("after.png", picture(2))
    quick.until_settled("after.png", "done")
    odd = {r"caf\xe9.png": "name_not_utf8"}
    odd |= dict.fromkeys(["pipe.png", "socket.png", "out"], "not_regular_file")

    def listed() -> bool:
        found = {file["path"]: file["reason"] for file in quick.get("/api/skipped")["files"]}
        return odd.items() <= found.items()

    quick.until(listed, "they are listed")
    time.sleep(1)
    told = [line["path"] for line in quick.log() if line["event"] == "file skipped"]
    assert [told.count(name) for name in odd] == [1, 1, 1, 1]
    assert not [job for job in quick.jobs() if job["path"] in ("pipe.png", "socket.png")]
    for name in (bad, "pipe.png", "socket.png", "out"):
        (quick.inbox / name).unlink()


def test_a_picture_replaced_while_queued_is_made_once_as_the_new_one(quick: Studio) -> None:
    with queued(quick, "swap.png"):
        quick.drop("swap.png", picture(50))
        quick.until_state("swap.png", "cancelled")
    quick.until_settled("swap.png", "done")
    assert states(quick, "swap.png") == ["cancelled", "done"]
    assert (quick.archive / "swap.png").read_bytes() == picture(50)
    assert [clip for clip in quick.clips() if clip.startswith("swap")] == ["swap.mp4"]


def test_a_picture_replaced_while_running_gives_both_clips(quick: Studio) -> None:
    quick.drop("long-swap.png", picture(51))
    quick.until_state("long-swap.png", "running")
    quick.drop("long-swap.png", picture(52))
    quick.until_state("long-swap.png", "done", count=2)
    quick.until(lambda: not (quick.inbox / "long-swap.png").exists(), "it is archived")
    made = {quick.sidecar(f"long-swap{n}.mp4")["source"]["sha256"] for n in ("", "-2")}
    assert len(made) == 2
    assert (quick.archive / "long-swap.png").read_bytes() == picture(52)


def test_a_picture_taken_away_while_queued_is_not_made(quick: Studio) -> None:
    with queued(quick, "away.png"):
        (quick.inbox / "away.png").unlink()
    quick.until_state("away.png", "cancelled")
    assert "away.mp4" not in quick.clips()


def test_renames_while_queued_are_followed(quick: Studio) -> None:
    with queued(quick, "trip/a.png", "case.png"):
        (quick.inbox / "trip").rename(quick.inbox / "journey")
        (quick.inbox / "case.png").rename(quick.inbox / "CASE.png")
        for name in ("journey/a.png", "CASE.png"):
            quick.until_state(name, "queued")
    for name in ("journey/a.png", "CASE.png"):
        quick.until_settled(name, "done")
    for name in ("trip/a.png", "case.png"):
        quick.until_state(name, "cancelled")
    made = [clip for clip in quick.clips() if "/a.mp4" in clip or "case" in clip.lower()]
    assert made == ["CASE.mp4", "journey/a.mp4"]


def test_rsync_delivers_whole_pictures_once(quick: Studio, tmp_path: Path) -> None:
    rsync = needs("rsync", package="rsync")
    content = picture(60, size=(400, 400), form="BMP")
    for name in ("synced.bmp", "inplace.bmp"):
        (tmp_path / name).write_bytes(content)
    for options in (["synced.bmp"], ["--inplace", "inplace.bmp"]):
        subprocess.run(
            [rsync, "--bwlimit=250", *options, f"{quick.inbox}/"], cwd=tmp_path, check=True
        )
    for name in ("synced.bmp", "inplace.bmp"):
        (job,) = quick.until_settled(name, "done")
        assert job["source"]["size"] == len(content)
        assert len(quick.jobs(name)) == 1


SFTP = """\
put "{picture}" "{inbox}/direct.bmp"
put "{picture}" "{inbox}/.renamed.bmp.filepart"
rename "{inbox}/.renamed.bmp.filepart" "{inbox}/renamed.bmp"
"""


def test_sftp_delivers_whole_pictures_once(quick: Studio, tmp_path: Path) -> None:
    client = needs("sftp", package="openssh-client")
    content = picture(61, size=(300, 300), form="BMP")
    (tmp_path / "picture.bmp").write_bytes(content)
    subprocess.run(
        [client, "-D", disks.sftp_server(), "-l", "1000", "-b", "-"],
        input=SFTP.format(picture=tmp_path / "picture.bmp", inbox=quick.inbox),
        text=True,
        check=True,
        capture_output=True,
    )
    for name in ("direct.bmp", "renamed.bmp"):
        (job,) = quick.until_settled(name, "done")
        assert job["source"]["size"] == len(content)
        assert len(quick.jobs(name)) == 1


def test_a_thousand_at_once_are_a_job_each(quick_in: Open, tmp_path: Path) -> None:
    studio: Studio = quick_in().start()
    studio.post("/api/pause")
    names = {f"{number:03}.png" for number in range(1000)}
    for number, name in enumerate(sorted(names)):
        (tmp_path / name).write_bytes(picture(number % 7) + number.to_bytes(4, "big"))
    for name in names:
        (tmp_path / name).rename(studio.inbox / name)

    def all_queued() -> bool:
        time.sleep(0.5)
        return studio.get("/api/status")["jobs"]["queued"] >= 1000

    studio.until(all_queued, "all are queued")
    time.sleep(0.5)
    assert studio.get("/api/status")["jobs"]["queued"] == 1000
    assert {job["path"] for job in studio.jobs()} == names


def test_slow_pictures_are_made_and_hold_up_no_other(quick_in: Open) -> None:
    studio: Studio = quick_in(CHAOS_QUICK="0.2").start()
    for number in range(2):
        content = slow_jpeg(scans=900 + number)  # seconds
        studio.drop(f"slow-{number}.jpg", content)
    studio.drop("cat.png", picture(87))
    studio.until_settled("cat.png", "done")
    assert studio.jobs("slow-1.jpg") == []
    for number in range(2):
        studio.until_settled(f"slow-{number}.jpg", "done")


def test_links_out_of_the_inbox_and_in_a_circle_are_never_followed(
    quick: Studio, tmp_path: Path
) -> None:
    (tmp_path / "private.png").write_bytes(picture(80))
    (quick.inbox / "elsewhere").symlink_to(tmp_path)
    (quick.inbox / "private.png").symlink_to(tmp_path / "private.png")
    (quick.inbox / "circle").symlink_to(quick.inbox)
    quick.drop("circled/once.png", picture(81))
    (quick.inbox / "circled/up").symlink_to("..")
    quick.until_settled("circled/once.png", "done")
    time.sleep(0.5)
    found = [job["path"] for job in quick.jobs()]
    assert not [path for path in found if path.endswith("private.png")]
    assert [path for path in found if path.endswith("once.png")] == ["circled/once.png"]
    assert (tmp_path / "private.png").read_bytes() == picture(80)
    for name in ("elsewhere", "private.png", "circle", "circled/up"):
        (quick.inbox / name).unlink()


def test_a_tree_of_folders_is_taken_as_deep_as_paths_reach(quick: Studio) -> None:
    tree = "/".join(f"{level:02}-{'x' * 40}" for level in range(60))
    quick.drop("deep.png", picture(82), folder=quick.inbox / tree)
    edge = quick.inbox / tree
    while (room := 4085 - len(str(edge))) > 1:  # a path in the outbox has no room for more
        edge /= "y" * min(room - 1, 200)
    edge.mkdir(parents=True)
    (edge / "e.png").write_bytes(picture(83))
    quick.until_settled(f"{tree}/deep.png", "done")
    assert f"{tree}/deep.mp4" in quick.clips()
    quick.drop("after-deep.png", picture(84))
    quick.until_settled("after-deep.png", "done")

    def too_long() -> list[Any]:
        return [line for line in quick.log() if line.get("reason") == "path_too_long"]

    (told,) = quick.until(too_long, "the folder is listed")
    assert str(edge).startswith(str(quick.inbox / told["path"]))
    assert (edge / "e.png").is_file()
    assert quick.is_ready()


def test_a_file_where_the_clip_needs_a_folder_stops_no_other_picture(quick: Studio) -> None:
    (quick.outbox / "taken").write_text("a person's")
    quick.drop("taken/a.png", picture(85))
    quick.until(lambda: [job for job in quick.jobs("taken/a.png") if job["waits"]], "it waits")
    reason = quick.job("taken/a.png")["error"]
    assert reason.startswith("a link or a file stands in the place of a folder")
    assert reason.endswith("/outbox/taken")
    quick.drop("after-taken.png", picture(86))
    quick.until_settled("after-taken.png", "done")
    assert quick.is_ready()
    assert quick.post(f"/api/jobs/{quick.job('taken/a.png')['id']}/cancel").is_success
    quick.until_settled("taken/a.png", "cancelled")


@contextlib.contextmanager
def bindfs(folder: Path) -> Iterator[Path]:
    """A share without the sounds of others: what they write there raises no event here."""
    far = folder.with_name(f"{folder.name}-far")
    far.mkdir(exist_ok=True)
    folder.mkdir(exist_ok=True)
    program = needs("bindfs", package="bindfs fuse3")
    subprocess.run([program, "-o", "nonempty", far, folder], check=True)
    try:
        yield far
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)


def test_pictures_that_others_write_to_a_share_are_found(quick_in: Open) -> None:
    studio: Studio = quick_in()
    with disks.sshfs(studio.inbox, "dir_cache=no") as far, disks.sshfs(studio.outbox):
        studio.start()
        assert studio.metric("i2vd_inbox_inotify", inbox="inbox") == 0
        studio.drop("sub/remote.png", picture(70), folder=far)
        studio.until_settled("sub/remote.png", "done")
        assert studio.clips() == ["sub/remote.mp4"]
        assert (studio.archive / "sub/remote.png").read_bytes() == picture(70)
        assert not (far / "sub/remote.png").exists()
        studio.stop()


def test_pictures_on_a_windows_share_are_made_once_and_kept(quick_in: Open) -> None:
    studio: Studio = quick_in()
    studio.settings(studio.config.read_text(encoding="utf-8") + 'on_success = "keep"\n')
    with disks.samba(studio.inbox) as far:
        studio.start()
        studio.drop("sub/remote.png", picture(74), folder=far)
        studio.until_state("sub/remote.png", "done")
        studio.drop("sub/remote.png", picture(76), folder=far)
        studio.until_state("sub/remote.png", "done", count=2)
        assert studio.clips() == ["sub/remote-2.mp4", "sub/remote.mp4"]
        assert (far / "sub/remote.png").read_bytes() == picture(76)
        studio.stop()


def test_a_share_that_goes_and_comes_back_loses_nothing(quick_in: Open) -> None:
    studio: Studio = quick_in()
    with bindfs(studio.inbox) as far:
        studio.start().post("/api/pause")
        studio.drop("waiting.png", picture(71), folder=far)
        studio.until_state("waiting.png", "queued")
    studio.until(lambda: not studio.is_ready(), "the share is gone")
    studio.drop("beneath.png", picture(72))
    studio.post("/api/resume")
    time.sleep(1.5)
    assert states(studio, "waiting.png") == ["queued"]
    assert studio.jobs("beneath.png") == []
    with bindfs(studio.inbox):
        for _ in range(2):
            (job,) = studio.until_settled("waiting.png", "done")
        assert (job["attempt"], job["failures"]) == (1, 0)
        studio.until(studio.is_ready, "it is back")
        studio.stop()
    assert (studio.inbox / "beneath.png").is_file()


def test_without_inotify_watches_the_scan_goes_on(quick_in: Open) -> None:
    limit = "/proc/sys/user/max_inotify_watches"
    script = f'echo 0 > {limit} && exec "$@"'
    prefix: Any = ("unshare", "--user", "--map-root-user", "sh", "-c", script, "sh")
    probe = subprocess.run([*prefix, "true"], check=False, capture_output=True)
    if probe.returncode:
        missing("there are no user namespaces here; run this test as root")
    studio = quick_in(prefix=prefix).start()
    studio.drop("cat.png", picture(73))
    studio.until_settled("cat.png", "done")
    assert studio.metric("i2vd_inbox_inotify", inbox="inbox") == 0
    (told,) = [line for line in studio.log() if line["level"] == "warning"]
    assert "fs.inotify.max_user_watches" in told["reason"]
