"""Fingerprints: identify a state of a file by size and mtime.

The inode is no part of it: a copy, a restore, a remount and some FUSE folders change it.
"""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class FileState:
    """Size in bytes, mtime and ctime in nanoseconds; states with another ctime are equal.

    The ctime also changes with the mode, the owner and the name of a file.
    """

    size: int
    mtime_ns: int
    ctime_ns: int = field(default=0, compare=False)

    @classmethod
    def of(cls, status: os.stat_result) -> "FileState":
        """Return the state in a stat result."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    @classmethod
    def find(cls, file: Path) -> "FileState | None":
        """Return the state of a regular file; None for a link or anything else. Raises OSError."""
        try:
            status = file.lstat()
        except FileNotFoundError:
            return None
        return cls.of(status) if stat.S_ISREG(status.st_mode) else None

    @property
    def fingerprint(self) -> str:
        """The state as stored in the queue, "size-mtime"; the same on every host."""
        return f"{self.size}-{self.mtime_ns}"
