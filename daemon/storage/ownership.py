"""Ownership: one queue at a time takes pictures from an inbox, or puts clips into an outbox.

Two queues with one inbox would each make every picture, and each remove the other's staging. So a
file in the folder names the queue, and each daemon of that queue changes the file's time again and
again. Another queue waits until the time stands still: the owner has ended or lost its queue. This
needs no lock, which shares may lack and which would keep them from being unmounted.
"""

import errno
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import structlog

from daemon.fs.atomic import atomic_write
from pipeline.durable import fsync_file
from rules.characters import escape_unsafe
from rules.text_file import NotRegular, Unreadable, decode, open_regular

OWNER = ".i2vd-owner"

_BEAT_SECONDS = 10.0
SILENT_SECONDS = 45.0
"""Time without a beat after which a folder is taken over; NFS and sshfs show a beat within 20 s."""
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_MAX_FILE_BYTES = 4096
_MAX_NAME_CHARACTERS = 200

log = structlog.get_logger()


class _Owner(NamedTuple):
    """The content of an owner file, and what changes with each beat."""

    queue: str
    name: str
    beat: tuple[int, int]
    """Inode and mtime in nanoseconds."""


class _Watch(NamedTuple):
    """The last beat of another queue, and the monotonic time at which it was first seen."""

    beat: tuple[int, int]
    since: float


class Ownership:
    """Claims folders for one queue. Of several hosts that share the queue, each does so."""

    def __init__(
        self, queue: Callable[[], str], name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`queue` returns its durable id, and may raise OSError; `name` is shown to people."""
        self._clock = clock
        self._queue = queue
        self._name = name
        self._confirmed: dict[Path, float] = {}
        """Monotonic time at which each folder was known to be this queue's."""
        self._watched: dict[Path, _Watch] = {}

    def claim(self, folder: Path) -> str | None:
        """Return None if the folder is this queue's, claimed now or before; else who has it.

        Raises OSError.
        """
        now = self._clock()
        if now - self._confirmed.get(folder, -math.inf) < _BEAT_SECONDS:
            return None
        queue, found = self._queue(), _read(folder)
        if found is None:
            try:
                self._write(folder, queue, _create)
            except FileExistsError:  # another host was first
                return self.claim(folder)
        elif found.queue == queue:
            self._beat(folder, queue)
        else:
            self._confirmed.pop(folder, None)
            if self._is_silent(folder, found, now):
                log.warning("folder taken over", folder=str(folder), former=found.name)
                self._write(folder, queue, atomic_write)
            return found.name  # whoever wrote last has it, as the next look shows
        self._confirmed[folder] = now
        self._watched.pop(folder, None)
        return None

    def other(self, folder: Path) -> str | None:
        """Return who has the folder now, by the clock of this host; writes nothing.

        Raises OSError.
        """
        found = _read(folder)
        if found is None or found.queue == self._queue():
            return None
        return found.name if time.time() - found.beat[1] / 1e9 < SILENT_SECONDS else None

    def _is_silent(self, folder: Path, found: _Owner, now: float) -> bool:
        watched = self._watched.get(folder)
        if watched is None or watched.beat != found.beat:
            self._watched[folder] = watched = _Watch(found.beat, now)
        return now - watched.since >= SILENT_SECONDS

    def _beat(self, folder: Path, queue: str) -> None:
        """Change the time of the file, or the file where times cannot be changed."""
        try:
            os.utime(folder / OWNER, follow_symlinks=False)
        except OSError:
            self._write(folder, queue, atomic_write)

    def _write(self, folder: Path, queue: str, write: Callable[[Path, str], None]) -> None:
        """Write the file; a disk that refuses it takes no work either, and health.py says why."""
        try:
            write(folder / OWNER, f"{queue}\n{self._name}\n")
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            log.debug("owner file not written", folder=str(folder), reason=str(error))


def _create(file: Path, text: str) -> None:
    """Write a file that must not exist."""
    with file.open("x", encoding="utf-8") as opened:
        opened.write(text)
        opened.flush()
        fsync_file(opened.fileno())


def _read(folder: Path) -> _Owner | None:
    """Return the owner of a folder; None if it has none. Raises OSError."""
    try:
        with os.fdopen(open_regular(folder / OWNER), "rb") as file:
            content, status = file.read(_MAX_FILE_BYTES), os.fstat(file.fileno())
    except FileNotFoundError:
        return None
    except NotRegular as error:
        reason = "is no plain file; remove it"
        raise OSError(errno.EINVAL, reason, str(folder / OWNER)) from error
    try:
        queue, _, name = decode(content).partition("\n")
    except Unreadable:
        queue, name = "", ""
    shown = escape_unsafe(name.strip())[:_MAX_NAME_CHARACTERS] or "?"
    return _Owner(queue.strip(), shown, (status.st_ino, status.st_mtime_ns))
