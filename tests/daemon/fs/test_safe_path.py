"""Folders that others can write to: nothing is created, changed or removed through a link."""

import contextlib
import ctypes
import hashlib
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

import pytest

from daemon.config.settings import Inbox
from daemon.fs import content
from daemon.fs.atomic import CommitMethod, atomic_write
from daemon.fs.move import copy_file, move
from daemon.fs.probe import check_takes_files, write_probe
from daemon.fs.safe_path import UnsafePath, find_beneath, open_beneath
from daemon.jobs.job import Job
from daemon.publish.publisher import CLIP, SIDECAR, ClipLost, check_clip_folder, publish, withdraw
from daemon.publish.rejected_clip import keep_rejected_clip
from daemon.publish.staging import create_staging, remove_staging, remove_stale_staging


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "outbox"
    folder.mkdir()
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder outside i2vd's, with a file that must stay."""
    folder = tmp_path / "elsewhere"
    (folder / "1-1").mkdir(parents=True)
    (folder / "1-1" / "precious").write_text("precious")
    return folder


def everything(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): f.read_text() for f in folder.rglob("*") if f.is_file()}


def exchange(one: Path, other: Path) -> None:
    """Swap two names at once, so that neither is ever missing."""
    here, exchange_them = -100, 2
    libc = ctypes.CDLL(None)
    assert libc.renameat2(here, bytes(one), here, bytes(other), exchange_them) == 0


@pytest.fixture
def staging(root: Path) -> Path:
    folder = root / ".i2vd" / "1-1"
    folder.mkdir(parents=True)
    (folder / CLIP).write_text("the clip")
    (folder / SIDECAR).write_text("{}")
    return folder


def test_missing_folders_are_made(root: Path) -> None:
    with open_beneath(root, PurePath("a/b")) as folder:
        (folder / "c").write_text("here")
    assert everything(root) == {"a/b/c": "here"}


def test_a_missing_folder_is_reported_by_its_own_name(root: Path) -> None:
    with (
        pytest.raises(FileNotFoundError) as caught,
        open_beneath(root, PurePath("a/b"), make=False),
    ):
        pass
    assert caught.value.filename == str(root / "a")
    with pytest.raises(FileNotFoundError) as caught, open_beneath(root, PurePath("a")) as folder:
        (folder / "cat.mp4").read_bytes()
    assert caught.value.filename == str(root / "a" / "cat.mp4")


@pytest.mark.parametrize("inside", ["", "a", "missing"])
def test_an_error_without_a_file_keeps_its_message(root: Path, inside: str) -> None:
    (root / "a").mkdir()
    with pytest.raises(OSError, match=r"^the queue is away$"), find_beneath(root, PurePath(inside)):
        raise OSError("the queue is away")


def test_the_root_itself_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    with open_beneath(tmp_path / "link", PurePath("a")) as folder:
        (folder / "b").write_text("here")
    assert everything(root) == {"a/b": "here"}


@pytest.mark.parametrize("inside", ["..", "../elsewhere", "a/../../elsewhere", "/etc"])
def test_no_path_leads_out(root: Path, inside: str) -> None:
    with pytest.raises(ValueError, match="may lead out"), open_beneath(root, PurePath(inside)):
        pass


@pytest.mark.parametrize("stranger", ["link", "link to nothing", "file", "pipe"])
@pytest.mark.parametrize("inside", ["sub", "sub/deeper"])
def test_a_file_in_the_place_of_a_folder_is_reported(
    root: Path, elsewhere: Path, stranger: str, inside: str
) -> None:
    place: dict[str, Callable[[Path], None]] = {
        "link": lambda path: path.symlink_to(elsewhere),
        "link to nothing": lambda path: path.symlink_to("nothing"),
        "file": Path.touch,
        "pipe": os.mkfifo,
    }
    place[stranger](root / "sub")
    with pytest.raises(UnsafePath) as caught, open_beneath(root, PurePath(inside)):
        pass
    assert caught.value.filename == str(root / "sub")
    with pytest.raises(UnsafePath) as caught:
        check_clip_folder(root, f"{inside}/cat")
    assert caught.value.filename == str(root / "sub")


def test_a_free_way_is_free(root: Path) -> None:
    check_clip_folder(root, "cat")
    check_clip_folder(root, "not/yet/there/cat")
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("method", CommitMethod)
def test_no_clip_is_published_through_a_link(
    root: Path, elsewhere: Path, staging: Path, method: CommitMethod
) -> None:
    (root / "sub").symlink_to(elsewhere)
    before = everything(elsewhere)
    with pytest.raises(UnsafePath):
        publish(staging, root, "sub/cat", method, "")
    assert everything(elsewhere) == before
    assert (staging / CLIP).read_text() == "the clip"


@pytest.mark.parametrize("act", [publish, withdraw])
@pytest.mark.parametrize("method", CommitMethod)
def test_nothing_is_published_from_a_link_in_the_place_of_staging(
    root: Path,
    elsewhere: Path,
    staging: Path,
    method: CommitMethod,
    act: Callable[..., Path | None],
) -> None:
    for file in staging.iterdir():
        file.rename(elsewhere / file.name)
    staging.rmdir()
    staging.symlink_to(elsewhere)
    before = everything(elsewhere)
    with contextlib.suppress(ClipLost):
        assert act(staging, root, "cat", method, hashlib.sha256(b"{}").hexdigest()) is None
    assert everything(elsewhere) == before
    assert not list(root.glob("cat*"))


def test_no_rejected_clip_is_taken_from_a_link(
    elsewhere: Path, staging: Path, inbox: Inbox
) -> None:
    job = Job.model_construct(id=1, attempt=1, path="cat.jpg")
    shutil.move(staging, elsewhere / "staged")
    staging.symlink_to(elsewhere / "staged")
    before = everything(elsewhere)
    keep_rejected_clip(inbox, job)
    assert everything(elsewhere) == before
    staging.unlink()
    shutil.move(elsewhere / "staged", staging)
    keep_rejected_clip(inbox, job)
    assert everything(inbox.failed) == {"cat.jpg.refused-1.mp4": "the clip"}


def test_nothing_is_moved_through_a_link(root: Path, elsewhere: Path, tmp_path: Path) -> None:
    (root / "sub").symlink_to(elsewhere)
    before = everything(elsewhere)
    (tmp_path / "cat.jpg").write_text("cat")
    with pytest.raises(UnsafePath):
        move(tmp_path / "cat.jpg", root, "sub/cat.jpg")
    assert everything(elsewhere) == before
    assert (tmp_path / "cat.jpg").read_text() == "cat"


def test_a_link_that_takes_a_folders_place_meanwhile_gets_nothing(
    root: Path, elsewhere: Path
) -> None:
    before = everything(elsewhere)
    with open_beneath(root, PurePath("sub")) as folder:
        (root / "sub").rename(root / "was")
        (root / "sub").symlink_to(elsewhere)
        atomic_write(folder / "cat.json", "ours")
    assert everything(elsewhere) == before
    assert everything(root / "was") == {"cat.json": "ours"}


def test_a_link_swapped_in_at_any_moment_gets_nothing(
    root: Path, elsewhere: Path, tmp_path: Path
) -> None:
    before, over = everything(elsewhere), threading.Event()
    real, link = root / "sub", root / "link"
    real.mkdir()
    link.symlink_to(elsewhere)

    def swap() -> None:
        while not over.is_set():
            exchange(real, link)

    stranger = threading.Thread(target=swap)
    stranger.start()
    moved = 0
    try:
        for number in range(400):
            picture = tmp_path / f"{number}.jpg"
            picture.write_text("cat")
            try:
                moved += bool(move(picture, root, f"sub/{number}.jpg"))
            except OSError:
                assert picture.read_text() == "cat"
    finally:
        over.set()
        stranger.join()
    assert everything(elsewhere) == before
    assert moved


@pytest.fixture
def inbox(tmp_path: Path, root: Path) -> Inbox:
    return Inbox(path=tmp_path / "inbox", outbox=root, failed=tmp_path / "failed")


def test_staging_is_neither_made_nor_swept_through_a_link(
    root: Path, elsewhere: Path, inbox: Inbox
) -> None:
    job = Job.model_construct(id=1, attempt=1)
    before = everything(elsewhere)
    (root / ".i2vd").symlink_to(elsewhere)
    remove_stale_staging(root, lambda: ())
    remove_staging(inbox, job)
    with pytest.raises(UnsafePath):
        create_staging(inbox, job)
    assert everything(elsewhere) == before


def test_staging_is_made_empty_and_swept(root: Path, inbox: Inbox) -> None:
    first, second = (Job.model_construct(id=1, attempt=number) for number in (1, 2))
    remove_stale_staging(root, lambda: ())
    remove_staging(inbox, first)
    assert list(root.iterdir()) == []
    for job in (first, second):
        (create_staging(inbox, job) / CLIP).touch()
    assert list(create_staging(inbox, first).iterdir()) == []
    remove_stale_staging(root, lambda: [(1, 2)])
    assert [folder.name for folder in (root / ".i2vd").iterdir()] == ["1-2"]
    remove_staging(inbox, second)
    assert list((root / ".i2vd").iterdir()) == []


def test_a_probe_writes_through_no_link(root: Path, elsewhere: Path) -> None:
    """In an inbox others may have put a link there, and a probe is a megabyte of zeros."""
    (root / ".i2vd-probe").symlink_to(elsewhere / "1-1" / "precious")
    write_probe(root)
    assert everything(elsewhere) == {"1-1/precious": "precious"}


def test_a_probe_of_names_leaves_nothing_behind_a_link(
    root: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, really = everything(elsewhere), Path.mkdir

    def replaced(self: Path) -> None:
        really(self)
        self.rename(root / "was")
        self.symlink_to(elsewhere)

    monkeypatch.setattr(Path, "mkdir", replaced)
    with pytest.raises(OSError, match="Not a directory") as caught:
        check_takes_files(root)
    assert caught.value.filename == str(root)
    assert everything(elsewhere) == before


def test_a_copy_gives_its_mode_and_time_to_no_other_file(
    root: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, copy, precious = root / "cat.jpg", root / "copy", elsewhere / "1-1" / "precious"
    source.write_text("cat")
    source.chmod(0o777)
    precious.chmod(0o600)
    before, really = precious.stat(), content.copy_content

    def replaced(*args: Any) -> None:
        really(*args)
        copy.rename(root / "was")
        copy.symlink_to(precious)

    monkeypatch.setattr("daemon.fs.move.copy_content", replaced)
    copy_file(source, copy)
    after = precious.stat()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert (root / "was").stat().st_mtime_ns == source.stat().st_mtime_ns


def test_what_is_missing_or_a_link_is_a_folder_in_which_nothing_is(
    root: Path, elsewhere: Path
) -> None:
    (root / "link").symlink_to(elsewhere)
    for inside in ("link", "link/1-1", "missing", "missing/deeper"):
        with find_beneath(root, PurePath(inside)) as folder:
            assert not os.path.lexists(folder / "precious")
            with pytest.raises(FileNotFoundError) as caught:
                (folder / "new").touch()
        assert str(caught.value.filename).startswith("/proc/self/fd/none")
    with (
        pytest.raises(FileNotFoundError) as caught,
        find_beneath(root, PurePath("missing")) as folder,
    ):
        (folder / "new").touch()
    assert caught.value.filename == str(root / "missing" / "new")


def test_a_deep_folder_takes_no_descriptor_for_each_of_its_parents(root: Path) -> None:
    deep = PurePath(*["a"] * 300)
    with open_beneath(root, deep):
        during = len([*Path("/proc/self/fd").iterdir()])
    after = len([*Path("/proc/self/fd").iterdir()])
    assert during == after + 1


def test_a_durable_write_goes_through_no_link(root: Path, elsewhere: Path) -> None:
    atomic_write(root / "cat.json", "first")
    seen: list[str] = []
    really = Path.replace

    def spy(self: Path, target: Path) -> Path:
        seen.append(self.name)
        return really(self, target)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "replace", spy)
        atomic_write(root / "cat.json", "second")
    (root / seen[0]).symlink_to(elsewhere / "1-1" / "precious")
    atomic_write(root / "cat.json", "third")
    assert everything(elsewhere) == {"1-1/precious": "precious"}
    assert everything(root) == {"cat.json": "third"}


def test_a_copy_to_another_file_system_follows_no_link(
    root: Path, elsewhere: Path, tmp_path: Path
) -> None:
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is not another file system here")
    far = shm / f"i2vd-test-beneath-{os.getpid()}"
    (far / "real").mkdir(parents=True)
    (far / "sub").symlink_to(elsewhere)
    try:
        (root / "cat.jpg").write_text("cat")
        with pytest.raises(UnsafePath):
            move(root / "cat.jpg", far, "sub/cat.jpg")
        assert move(root / "cat.jpg", far, "real/cat.jpg").inside == PurePath("real/cat.jpg")
        assert everything(elsewhere) == {"1-1/precious": "precious"}
    finally:
        shutil.rmtree(far)


def test_an_error_without_a_file_keeps_its_words(tmp_path: Path) -> None:
    """Such as the queue's, which is raised while a folder is open."""
    with pytest.raises(OSError, match=r"^the queue is full$"), open_beneath(tmp_path, PurePath()):
        raise OSError("the queue is full")
