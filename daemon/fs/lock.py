"""The lock that proves that one daemon alone uses a state folder."""

import contextlib
import fcntl
import os
from pathlib import Path


class AlreadyRunning(Exception):
    """Another daemon holds the lock."""


class Lock:
    """Held from construction until the process ends, however it ends."""

    def __init__(self, state: Path) -> None:
        """Take the lock in the folder `state`. Raises AlreadyRunning."""
        path = state / "i2vd.lock"
        try:
            self._file = path.open("a+")
        except OSError:  # a disk that is read-only for now: the lock of the last run will do
            self._file = path.open("r")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            pid = self._file.read().strip() or "?"
            self._file.close()
            raise AlreadyRunning(f"{path}: another i2vd (pid {pid}) is at work here") from None
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a number in it
            self._file.truncate(0)
            self._file.write(f"{os.getpid()}\n")
            self._file.flush()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        """Let another daemon in."""
        self._file.close()
