"""Fingerprints: what tells one state of a file from another (size, mtime, inode)."""

import hashlib
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class FileState:
    """What tells one state of a file from another."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileState":
        """The state that a status tells."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)

    @property
    def state(self) -> str:
        """The same as a text."""
        return f"{self.size}-{self.mtime_ns}-{self.inode}"

    def fingerprint(self, host: str) -> str:
        """The state as the ledger keeps it: with who saw it.

        Another host may see another inode: NFS and SMB mostly tell all the same, FUSE its own.
        """
        return f"{self.state}@{hashlib.sha256(host.encode()).hexdigest()[:8]}"


def same_fingerprint(one: str, other: str) -> bool:
    """Whether two fingerprints tell one state of a file; between two hosts by size and time."""
    one, _, host = one.partition("@")
    other, _, other_host = other.partition("@")
    if host != other_host:
        return one.rpartition("-")[0] == other.rpartition("-")[0]
    return one == other
