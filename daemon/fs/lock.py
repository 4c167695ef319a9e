"""File lock: only one daemon uses a state folder, or an SQLite queue elsewhere."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
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

    def __init__(self, folder: Path, name: str = "i2vd.lock") -> None:
        """Take the lock of this name in a folder. Raises AlreadyRunning, and OSError."""
        path = folder / name
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


@contextlib.contextmanager
def locked(state: Path, queue: Path | None) -> Iterator[None]:
    """Hold the lock of a state folder, and that of an SQLite queue which is in another folder.

    Raises AlreadyRunning, and OSError.
    """
    with contextlib.ExitStack() as locks:
        locks.enter_context(Lock(state))
        if queue is not None and queue.parent != state and queue.parent.is_dir():
            locks.enter_context(Lock(queue.parent, f"{queue.name}.lock"))
        yield
