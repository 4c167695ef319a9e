"""Backup: copy an SQLite queue while a daemon works on it, and restore it from a copy.

A copy is one file, checked and durable before it gets its name. The daemon's connections and
transactions are in database.py; PostgreSQL has tools of its own.
"""

import contextlib
import itertools
import os
import sqlite3
from pathlib import Path

from daemon.fs.atomic import hidden_name, probe_commit_method, publish_exclusive
from pipeline.durable import fsync_dir, fsync_file

_BUSY_SECONDS = 30.0
_SKIPPED_NUMBERS = 1_000_000
"""Numbers of jobs and events that are left out after a restore: the queue had given some of them
since the backup, and receivers of webhooks would take a second message of one number for a copy."""


class BackupFailed(Exception):
    """A queue cannot be copied or restored; nothing was changed. The message has the reason."""


def back_up(queue: Path, copy: Path) -> None:
    """Copy a queue to a new file, as it is at one moment; others may write meanwhile.

    Raises BackupFailed, and OSError.
    """
    if os.path.lexists(copy):
        raise BackupFailed(f"{copy} exists already; choose a new name")
    if not copy.parent.is_dir():
        raise BackupFailed(f"{copy.parent} is no folder")
    part = hidden_name(copy, "part")
    try:
        copy_database(queue, part)
        part.chmod(queue.stat().st_mode & 0o777)
        if not publish_exclusive(part, copy, probe_commit_method(copy.parent)):
            raise BackupFailed(f"{copy} exists already; choose a new name")
    finally:
        part.unlink(missing_ok=True)
    fsync_dir(copy.parent)


def restore(copy: Path, queue: Path) -> Path | None:
    """Put a copy in the place of a queue that no daemon uses; return where the former one is now.

    At each moment there is a whole queue, the former or the restored one. The caller holds the lock
    of the state folder. Raises BackupFailed, and OSError.
    """
    part = hidden_name(queue, "part")
    try:
        copy_database(copy, part)
        _skip_numbers(part, copy)
        owner = queue.parent.stat()
        with contextlib.suppress(PermissionError):  # not root, whose file the service cannot open
            os.chown(part, owner.st_uid, owner.st_gid)
        former = _set_aside(queue) if queue.exists() else None
        part.replace(queue)
    finally:
        part.unlink(missing_ok=True)
    fsync_dir(queue.parent)
    return former


def copy_database(source: Path, copy: Path) -> None:
    """Copy an SQLite database with its write-ahead log, check the copy, and make it durable.

    A file that has the copy's name is replaced. Raises BackupFailed, and OSError.
    """
    copy.unlink(missing_ok=True)
    try:
        with contextlib.closing(_open(source)) as old, contextlib.closing(_open(copy, "c")) as new:
            old.backup(new)
            new.execute("PRAGMA journal_mode=DELETE")  # nothing of it in a second file
            (verdict,) = new.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        raise BackupFailed(f"{source} cannot be copied: {error}") from error
    if verdict != "ok":
        raise BackupFailed(f"{source} is damaged: {verdict}")
    with copy.open("rb+") as file:
        fsync_file(file.fileno())


def _open(file: Path, create: str = "") -> sqlite3.Connection:
    """Open a database; without "c" it must exist."""
    uri = f"{file.absolute().as_uri()}?mode=rw{create}"
    return sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)


def _skip_numbers(part: Path, copy: Path) -> None:
    """Let the numbers of a restored queue begin after those that were given since its backup."""
    try:
        with contextlib.closing(_open(part)) as db:
            db.execute("BEGIN")
            for table in ("jobs", "events"):
                (newest,) = db.execute(
                    f"select max(coalesce((select max(id) from {table}), 0), "
                    "coalesce((select seq from sqlite_sequence where name = ?), 0))",
                    [table],
                ).fetchone()
                db.execute("delete from sqlite_sequence where name = ?", [table])
                following = [table, newest + _SKIPPED_NUMBERS]
                db.execute("insert into sqlite_sequence (name, seq) values (?, ?)", following)
            db.execute("COMMIT")
    except sqlite3.Error as error:
        raise BackupFailed(f"{copy} is no queue of i2vd: {error}") from error
    with part.open("rb+") as file:
        fsync_file(file.fileno())


def _set_aside(queue: Path) -> Path:
    """Give the former queue a second name, with what its write-ahead log has; return the name."""
    names = (queue.with_name(f"{queue.name}.before-restore-{n}") for n in itertools.count(1))
    former = next(name for name in names if not os.path.lexists(name))
    with contextlib.suppress(sqlite3.Error), contextlib.closing(_open(queue)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    os.link(queue, former)
    for ending in ("-wal", "-shm"):  # only of a queue that is damaged: they are none of the copy's
        rest = queue.with_name(queue.name + ending)
        if rest.exists():
            rest.rename(former.with_name(former.name + ending))
    return former
