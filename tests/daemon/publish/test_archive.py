"""Archival: a picture is never lost, never doubled, and never another job's."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from daemon.config.settings import Inbox, Settings
from daemon.fs import atomic, content, move
from daemon.fs.fingerprint import FileState
from daemon.jobs.database import Database
from daemon.jobs.job import DropOverride, Job
from daemon.jobs.operator import Operator
from daemon.jobs.queries import JobQueries
from daemon.jobs.store import JobStore
from daemon.publish.archive import Archive
from daemon.publish.drop_files import restore
from daemon.publish.reason_file import remove_reason, write_reason
from daemon.storage.ownership import OWNER
from daemon.storage.volumes import MARKER, VolumeMarkers

CAT = b"the cat"


class Crash(Exception):
    """The process ends here."""


@dataclass
class Place:
    """An inbox with one finished job, whose picture is to be archived."""

    inbox: Inbox
    database: Database
    store: JobStore
    queries: JobQueries

    @property
    def picture(self) -> Path:
        return self.inbox.path / "pets" / "cat.jpg"

    def archive(self) -> Archive:
        settings = Settings(inbox=(self.inbox,), state=self.inbox.path.parent)
        storage = VolumeMarkers(settings, self.database)
        return Archive(self.database, self.store, self.queries, settings, storage)

    def job(self) -> Job:
        job = self.queries.job(1)
        assert job is not None
        return job

    def files(self) -> dict[str, bytes]:
        """All files in the three folders, except the reasons."""
        return {
            f"{role}/{file.relative_to(folder)}": file.read_bytes()
            for role in ("path", "archive", "failed")
            for folder in [getattr(self.inbox, role)]
            for file in folder.rglob("*")
            if file.is_file() and file.suffix != ".json" and file.name not in (MARKER, OWNER)
        }


Make = Callable[..., Place]


@pytest.fixture
def far_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than tmp_path."""
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is not another file system here")
    folder = shm / f"i2vd-test-{os.getpid()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def finished(
    tmp_path: Path,
    database: Database,
    store: JobStore,
    queries: JobQueries,
    enqueue: Callable[..., list[int]],
) -> Make:
    def make(*, ended: str = "done", on_success: str = "archive", away: Path = tmp_path) -> Place:
        folders = {"path": tmp_path / "inbox", "archive": away / "arch", "failed": away / "failed"}
        folders |= {"outbox": tmp_path / "outbox"}
        for folder in folders.values():
            folder.mkdir()
        there = Place(Inbox(on_success=on_success, **folders), database, store, queries)  # type: ignore[arg-type]
        there.picture.parent.mkdir()
        there.picture.write_bytes(CAT)
        (there.inbox.path / "pets/cat.jpg.txt").write_text("zoom in")
        VolumeMarkers(Settings(inbox=(there.inbox,)), database).check(there.inbox)
        status = there.picture.stat()
        enqueue(
            "pets/cat.jpg",
            FileState.of(status).fingerprint,
            hashlib.sha256(CAT).hexdigest(),
            overrides=(DropOverride("cat.jpg.txt", hashlib.sha256(b"zoom in").hexdigest()),),
        )
        job = store.claim("me", 30)
        assert job
        if ended == "done":
            store.begin_publication(job, {})
            store.done(job, {})
        else:
            store.fail(job, "broke")
        return there

    return make


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def exchange_for_link(folder: Path, elsewhere: Path) -> None:
    folder.rename(folder.with_name("was"))
    folder.symlink_to(elsewhere)


@contextlib.contextmanager
def swapping_after_a_look(file: Path, elsewhere: Path) -> Iterator[None]:
    """Right after the first look at `file`, its folder is exchanged for a link."""
    really = Path.lstat

    def lstat(self: Path) -> os.stat_result:
        try:
            return really(self)
        finally:
            here = self.parent.exists() and self.parent.samefile(file.parent)
            if here and self.name == file.name and not file.parent.is_symlink():
                exchange_for_link(file.parent, elsewhere)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "lstat", lstat)
        yield


def crashing_at(number: int, monkeypatch: pytest.MonkeyPatch, store: JobStore) -> None:
    """From now on the process ends before its `number`th change of anything."""
    changes = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal changes
            if changes == number:
                raise Crash
            changes += 1
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr(move, "publish_exclusive", counted(atomic.publish_exclusive))
    monkeypatch.setattr(move, "copy_content", counted(content.copy_content))
    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))
    monkeypatch.setattr(Path, "replace", counted(Path.replace))
    monkeypatch.setattr(store, "moved", counted(store.moved))


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize(("ended", "on_success"), [
    ("done", "archive"), ("failed", "archive"), ("done", "delete"), ("done", "keep"),
])  # fmt: skip
def test_a_crash_before_any_change_is_carried_on(
    finished: Make, far_folder: Path, tmp_path: Path, far: bool, ended: str, on_success: str
) -> None:
    there = finished(ended=ended, on_success=on_success, away=far_folder if far else tmp_path)
    expected = {
        ("done", "archive"): {"archive/pets/cat.jpg": CAT, "archive/pets/cat.jpg.txt": b"zoom in"},
        ("failed", "archive"): {"failed/pets/cat.jpg": CAT, "failed/pets/cat.jpg.txt": b"zoom in"},
        ("done", "delete"): {},
        ("done", "keep"): {"path/pets/cat.jpg": CAT, "path/pets/cat.jpg.txt": b"zoom in"},
    }[ended, on_success]
    number = 0
    while number < 40:
        with pytest.MonkeyPatch.context() as patched:
            crashing_at(number, patched, there.store)
            with contextlib.suppress(Crash):
                there.archive().archive_pending(there.inbox)
                break
        number += 1
    there.archive().archive_pending(there.inbox)
    assert there.files() == expected
    assert there.queries.pending_archival() == []
    if ended == "failed":
        reason = there.inbox.failed / "pets/cat.jpg.reason.json"
        assert json.loads(reason.read_text())[0]["reason"] == "broke"


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("number", range(12))
def test_one_crash_anywhere_leaves_nothing_behind(
    finished: Make, far_folder: Path, tmp_path: Path, far: bool, number: int
) -> None:
    there = finished(ended="failed", away=far_folder if far else tmp_path)
    with pytest.MonkeyPatch.context() as patched:
        crashing_at(number, patched, there.store)
        with contextlib.suppress(Crash):
            there.archive().archive_pending(there.inbox)
    there.archive().archive_pending(there.inbox)
    job = there.job()
    assert job.picture_location == "failed"
    assert job.picture_path == "pets/cat.jpg"
    folder = there.inbox.failed / "pets"
    assert sorted(p.name for p in folder.iterdir()) == [
        "cat.jpg", "cat.jpg.reason.json", "cat.jpg.txt",
    ]  # fmt: skip
    assert list((there.inbox.path / "pets").iterdir()) == []


@pytest.mark.parametrize("on_success", ["archive", "delete"])
@pytest.mark.parametrize("far", [False, True])
def test_a_picture_dropped_in_the_last_moment_keeps_its_place(
    finished: Make,
    far_folder: Path,
    tmp_path: Path,
    far: bool,
    on_success: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = finished(on_success=on_success, away=far_folder if far else tmp_path)
    really, rename = move._rename, Path.rename

    def raced(source: Path, target: Path) -> bool:
        if there.picture.exists() and source.samefile(
            there.picture
        ):  # checked a microsecond ago, replaced since
            newer = there.picture.with_name("newer")
            newer.write_bytes(b"the dog")
            rename(newer, there.picture)
        return really(source, target)

    monkeypatch.setattr(move, "_rename", raced)
    there.archive().archive_pending(there.inbox)
    assert there.files()["path/pets/cat.jpg"] == b"the dog"
    assert b"the dog" not in [v for k, v in there.files().items() if not k.startswith("path")]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder outside i2vd's, whose files are named like the drop's and have its time and text."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "cat.jpg").write_bytes(b"VICTIM!")
    (folder / "cat.jpg.txt").write_text("zoom in")
    (folder / "cat.jpg.refused-1.mp4").write_text("precious")
    return folder


ON_SQLITE = pytest.mark.parametrize("url", ["sqlite"], indirect=True)
"""The engine makes no difference."""
ENDINGS = [("done", "archive"), ("done", "delete"), ("failed", "archive"), ("done", "keep")]


@ON_SQLITE
@pytest.mark.parametrize(("ended", "on_success"), ENDINGS)
def test_a_link_in_the_place_of_the_inboxs_folder_leads_nowhere(
    finished: Make, elsewhere: Path, ended: str, on_success: str
) -> None:
    there = finished(ended=ended, on_success=on_success)
    shutil.copy2(there.picture, elsewhere / "cat.jpg")  # the same content and time
    before = contents(elsewhere)
    there.picture.parent.rename(there.inbox.path / "was")
    there.picture.parent.symlink_to(elsewhere)
    there.archive().archive_pending(there.inbox)
    assert contents(elsewhere) == before
    assert there.job().picture_location == "gone"
    assert there.files() == {"path/was/cat.jpg": CAT, "path/was/cat.jpg.txt": b"zoom in"}


@ON_SQLITE
@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize(("ended", "on_success"), ENDINGS)
def test_a_link_swapped_in_after_the_look_at_the_picture_leads_nowhere(
    finished: Make,
    elsewhere: Path,
    far_folder: Path,
    tmp_path: Path,
    far: bool,
    ended: str,
    on_success: str,
) -> None:
    there = finished(ended=ended, on_success=on_success, away=far_folder if far else tmp_path)
    before = contents(elsewhere)
    with swapping_after_a_look(there.picture, elsewhere):
        there.archive().archive_pending(there.inbox)
    assert contents(elsewhere) == before
    assert b"VICTIM!" not in there.files().values()
    assert there.picture.parent.is_symlink()


@ON_SQLITE
@pytest.mark.parametrize("retried", [False, True])
def test_a_link_in_the_failed_folder_gets_and_gives_nothing(
    finished: Make, elsewhere: Path, retried: bool
) -> None:
    there = finished(ended="failed")
    shutil.copy2(there.picture, elsewhere / "cat.jpg")
    if retried:
        there.archive().archive_pending(there.inbox)
        (there.inbox.failed / "pets").rename(there.inbox.failed / "was")
    before = contents(elsewhere)
    (there.inbox.failed / "pets").symlink_to(elsewhere)
    if retried:
        assert not Operator(there.database).retry(1, lambda job: restore(there.inbox, job))
        assert not there.picture.exists()
    else:
        there.archive().archive_pending(there.inbox)
        assert there.picture.read_bytes() == CAT
    assert contents(elsewhere) == before


@ON_SQLITE
@pytest.mark.parametrize("moment", ["move", "reason", "retry"])
def test_a_link_swapped_into_the_failed_folder_gets_and_gives_nothing(
    finished: Make, elsewhere: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = finished(ended="failed")
    failed = there.inbox.failed / "pets" / "cat.jpg"
    before = contents(elsewhere)
    if moment == "reason":

        def swap_and_write(*args: Any) -> None:
            exchange_for_link(failed.parent, elsewhere)
            write_reason(*args)

        monkeypatch.setattr("daemon.publish.archive.write_reason", swap_and_write)
        there.archive().archive_pending(there.inbox)
    elif moment == "move":
        failed.parent.mkdir()
        with swapping_after_a_look(failed, elsewhere):
            there.archive().archive_pending(there.inbox)
    else:
        there.archive().archive_pending(there.inbox)
        with swapping_after_a_look(failed, elsewhere):
            Operator(there.database).retry(1, lambda job: restore(there.inbox, job))
        assert there.picture.read_bytes() == CAT
    assert failed.parent.is_symlink()
    assert contents(elsewhere) == before


@ON_SQLITE
@pytest.mark.parametrize(("ended", "on_success"), ENDINGS)
@pytest.mark.parametrize("replaced", ["cat.jpg", "cat.jpg.txt"])
def test_an_override_leaves_with_its_own_picture_alone(
    finished: Make, ended: str, on_success: str, replaced: str
) -> None:
    """It is for a picture that comes, or came, in the place of this one."""
    there = finished(ended=ended, on_success=on_success)
    (there.picture.parent / replaced).write_text("newer")
    there.archive().archive_pending(there.inbox)
    files = there.files()
    assert files[f"path/pets/{replaced}"] == b"newer"
    if replaced == "cat.jpg":
        assert files["path/pets/cat.jpg.txt"] == b"zoom in"


def test_what_cannot_be_moved_now_is_moved_later(finished: Make) -> None:
    there = finished()
    away = there.inbox.archive.rename(there.inbox.archive.with_name("away"))
    there.inbox.archive.write_text("in the way")
    archive = there.archive()
    archive.archive_pending(there.inbox)
    assert archive.last_error
    assert str(there.inbox.archive) in archive.last_error
    assert there.picture.read_bytes() == CAT
    there.inbox.archive.unlink()
    away.rename(there.inbox.archive)
    archive.archive_pending(there.inbox)
    assert archive.last_error is None
    assert there.job().picture_location == "archive"


def test_a_picture_that_was_touched_meanwhile_is_the_same(finished: Make) -> None:
    there = finished()
    os.utime(there.picture, (1, 1))
    there.archive().archive_pending(there.inbox)
    assert there.job().picture_location == "archive"


@pytest.mark.parametrize("far", [False, True])
def test_a_failed_picture_comes_back(
    finished: Make, far_folder: Path, tmp_path: Path, far: bool
) -> None:
    there = finished(ended="failed", away=far_folder if far else tmp_path)
    there.archive().archive_pending(there.inbox)
    assert Operator(there.database).retry(1, lambda job: restore(there.inbox, job))
    status = there.picture.stat()
    assert there.job().fingerprint == FileState.of(status).fingerprint
    assert there.files() == {"path/pets/cat.jpg": CAT, "path/pets/cat.jpg.txt": b"zoom in"}


def test_a_kept_picture_is_archived_once(finished: Make) -> None:
    there = finished(on_success="keep")
    there.archive().archive_pending(there.inbox)
    assert there.job().picture_location == "kept"
    assert there.store.without_job("inbox", {"pets/cat.jpg": there.job().fingerprint}) == []


def test_a_reason_whose_name_is_a_folder_is_numbered(finished: Make) -> None:
    there = finished(ended="failed")
    folder = there.inbox.failed / "pets"
    names = [folder / "cat.jpg.reason.json", folder / "cat.jpg-2.reason.json"]
    for name in names:
        name.mkdir(parents=True)
    (names[1] / "theirs").touch()
    there.archive().archive_pending(there.inbox)
    assert "broke" in (folder / "cat.jpg-3.reason.json").read_text(encoding="utf-8")
    assert Operator(there.database).retry(1, lambda job: restore(there.inbox, job))
    assert sorted(folder.iterdir()) == sorted(names)


def test_a_reason_is_found_though_what_had_its_name_is_gone(tmp_path: Path) -> None:
    picture = tmp_path / "cat.jpg"
    (tmp_path / "cat.jpg.reason.json").mkdir()
    write_reason(picture, [], {})
    assert (tmp_path / "cat.jpg-2.reason.json").is_file()
    (tmp_path / "cat.jpg.reason.json").rmdir()
    remove_reason(picture)
    assert [*tmp_path.iterdir()] == []


def test_the_longest_name_has_a_reason_too(tmp_path: Path) -> None:
    picture = tmp_path / ("x" * 251 + ".jpg")
    write_reason(picture, [], {})
    assert [file.name[-12:] for file in tmp_path.iterdir()] == [".reason.json"]
    remove_reason(picture)
    assert [*tmp_path.iterdir()] == []
