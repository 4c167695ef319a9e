"""Backup of an SQLite queue while it is written, and what a restored queue knows and gives."""

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.jobs.backup import BackupFailed, back_up, restore
from daemon.jobs.database import Database
from daemon.jobs.job import Drop
from daemon.jobs.queries import JobQueries
from daemon.jobs.store import JobStore
from daemon.jobs.transitions import Changes
from pipeline.request.spec import Spec

MakeDrop = Callable[..., Drop]


class Queue:
    """A queue in a file, as a daemon has it open."""

    def __init__(self, file: Path, spec: Spec, make_drop: MakeDrop) -> None:
        self.file, self._spec, self._make_drop = file, spec, make_drop
        self.database = Database(f"sqlite:///{file}")
        self.queries, self.events = JobQueries(self.database), Changes(self.database)

    def enqueue(self, path: str) -> int:
        """Add a picture; return its job."""
        store = JobStore(self.database)
        drop = self._make_drop(path)
        (job,) = store.enqueue(drop, [self._spec], clip_name=path, rule=None, rules_digest="d")
        return job

    def paths(self) -> list[str]:
        """Return the pictures of all jobs, newest first."""
        return [job.path for job in self.queries.newest(limit=10_000)]

    def close(self) -> None:
        """Close it, as a daemon that ends."""
        self.database.close()


@pytest.fixture
def queue(tmp_path: Path, spec: Spec, make_drop: MakeDrop) -> Queue:
    return Queue(tmp_path / "queue.sqlite", spec, make_drop)


def other_files(folder: Path) -> list[str]:
    """Return the files in a folder that are neither the queue's nor a backup."""
    known = ("queue.sqlite", "queue.sqlite-wal", "queue.sqlite-shm", "copy")
    return [file.name for file in folder.iterdir() if file.name not in known]


def test_a_copy_has_all_that_was_committed_and_no_more_files(queue: Queue, tmp_path: Path) -> None:
    queue.enqueue("a.jpg")
    copy = tmp_path / "copy"
    back_up(queue.file, copy)
    with sqlite3.connect(f"{copy.as_uri()}?mode=ro", uri=True) as db:
        assert db.execute("select path from jobs").fetchall() == [("a.jpg",)]
        assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert db.execute("pragma journal_mode").fetchone() == ("delete",)
    assert not other_files(tmp_path)


def test_a_backup_while_jobs_are_added_is_one_moment_and_stops_none(
    queue: Queue, tmp_path: Path
) -> None:
    for number in range(200):
        queue.enqueue(f"{number}.jpg")
    stop, added = threading.Event(), 200

    def write() -> None:
        nonlocal added
        while not stop.is_set():
            queue.enqueue(f"{added}.jpg")
            added += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            before = added
            back_up(queue.file, tmp_path / f"copy-{number}")
            with sqlite3.connect(tmp_path / f"copy-{number}") as db:
                (jobs,) = db.execute("select count(*) from jobs").fetchone()
                (events,) = db.execute("select count(*) from events").fetchone()
            assert before <= jobs == events, "each job with its event, all that were committed"
    finally:
        stop.set()
        writer.join()
    assert added > 200
    assert len(queue.paths()) == added


@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_no_file_is_overwritten(queue: Queue, tmp_path: Path, what: str) -> None:
    copy = tmp_path / "copy"
    match what:
        case "file":
            copy.write_text("precious")
        case "folder":
            copy.mkdir()
        case "link":
            copy.symlink_to(tmp_path / "nowhere")
    before = copy.lstat()
    with pytest.raises(BackupFailed, match="exists already"):
        back_up(queue.file, copy)
    assert copy.lstat() == before
    assert not other_files(tmp_path)


def test_a_damaged_queue_is_not_called_a_backup(queue: Queue, tmp_path: Path) -> None:
    for number in range(300):
        queue.enqueue(f"{number}.jpg")
    queue.close()
    content = bytearray(queue.file.read_bytes())
    content[8192:40_960] = b"\xff" * 32_768
    queue.file.write_bytes(content)
    with pytest.raises(BackupFailed, match=r"damaged|malformed"):
        back_up(queue.file, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert not other_files(tmp_path)


def test_a_restored_queue_gives_no_number_a_second_time(
    queue: Queue, tmp_path: Path, spec: Spec, make_drop: MakeDrop
) -> None:
    queue.enqueue("before.jpg")
    back_up(queue.file, tmp_path / "copy")
    lost, event = queue.enqueue("after.jpg"), queue.events.newest()
    queue.close()
    former = restore(tmp_path / "copy", queue.file)
    again = Queue(queue.file, spec, make_drop)
    assert again.paths() == ["before.jpg"]
    assert again.enqueue("new.jpg") > lost, "staging and posters have its number"
    assert again.events.newest() > event, "webhook receivers know messages by it"
    again.close()
    assert former is not None
    assert Queue(former, spec, make_drop).paths() == ["after.jpg", "before.jpg"]


def test_what_the_log_of_the_former_queue_has_does_not_reach_the_restored_one(
    queue: Queue, tmp_path: Path, spec: Spec, make_drop: MakeDrop
) -> None:
    """As after a crash: its write-ahead log is beside it and would be read into any file."""
    queue.enqueue("before.jpg")
    back_up(queue.file, tmp_path / "copy")
    queue.enqueue("after.jpg")
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for file in tmp_path.glob("queue.sqlite*"):
        (crashed / file.name).write_bytes(file.read_bytes())
    assert (crashed / "queue.sqlite-wal").stat().st_size > 0
    former = restore(tmp_path / "copy", crashed / "queue.sqlite")
    assert Queue(crashed / "queue.sqlite", spec, make_drop).paths() == ["before.jpg"]
    assert former is not None
    assert Queue(former, spec, make_drop).paths() == ["after.jpg", "before.jpg"]


def test_what_is_no_queue_replaces_none(queue: Queue, tmp_path: Path) -> None:
    queue.enqueue("a.jpg")
    copy = tmp_path / "copy"
    for content in (b"", b"a text of some length, but no database" * 100):
        copy.write_bytes(content)
        with pytest.raises(BackupFailed):
            restore(copy, queue.file)
    assert queue.paths() == ["a.jpg"]
    assert not other_files(tmp_path)


def test_a_folder_that_is_missing_is_named(queue: Queue, tmp_path: Path) -> None:
    with pytest.raises(BackupFailed, match="backups is no folder"):
        back_up(queue.file, tmp_path / "backups" / "copy")
