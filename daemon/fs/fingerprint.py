"""Fingerprints: identify a state of a file by size, mtime and inode."""

import hashlib
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class FileState:
    """Size in bytes, mtime in nanoseconds and inode of a file."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileState":
        """Return the state in a stat result."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)

    @property
    def state(self) -> str:
        """The state as a text, "size-mtime-inode"."""
        return f"{self.size}-{self.mtime_ns}-{self.inode}"

    def fingerprint(self, host: str) -> str:
        """Return the state as stored in the queue, with a digest of the host that saw it.

        Another host may see another inode: NFS and SMB mostly show the same one, FUSE its own.
        """
        return f"{self.state}@{hashlib.sha256(host.encode()).hexdigest()[:8]}"


def same_fingerprint(one: str, other: str) -> bool:
    """Return True if both are one state; without the inode if the hosts differ."""
    one, _, host = one.partition("@")
    other, _, other_host = other.partition("@")
    if host != other_host:
        return one.rpartition("-")[0] == other.rpartition("-")[0]
    return one == other
