"""File lock: only one daemon uses a state folder."""

import contextlib
import fcntl
import os
from pathlib import Path


class AlreadyRunning(Exception):
    """Another daemon holds the lock."""


def is_locked(state: Path) -> bool:
    """Return True if a daemon works with the folder `state`."""
    try:
        with (state / "i2vd.lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class Lock:
    """Held from construction until the process ends, also if it is killed."""

    def __init__(self, state: Path) -> None:
        """Take the lock in the folder `state`. Raises AlreadyRunning."""
        path = state / "i2vd.lock"
        try:
            self._file = path.open("a+")
        except OSError:  # read-only disk: use the lock file of the last run
            self._file = path.open("r")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            pid = self._file.read().strip() or "?"
            self._file.close()
            raise AlreadyRunning(f"{path}: another i2vd (pid {pid}) is at work here") from None
        with contextlib.suppress(OSError):  # full disk: the lock works without the pid
            self._file.truncate(0)
            self._file.write(f"{os.getpid()}\n")
            self._file.flush()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock."""
        self._file.close()
