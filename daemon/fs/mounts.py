"""Mounts: the mount and file system type of a folder, and which types the queue must avoid."""

import os
import re
from pathlib import Path
from typing import NamedTuple

MOUNTS = Path("/proc/self/mounts")

NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "virtiofs", "afs")
_NETWORK_FUSE = ("sshfs", "rclone", "s3fs", "glusterfs", "ceph", "davfs", "smbnetfs", "juicefs")


class Mount(NamedTuple):
    """A mount: its mount point, file system type and source (a device, or `server:/share`)."""

    point: str
    kind: str
    source: str


def mount_of(path: Path) -> Mount | None:
    """Return the mount on which `path` is, as in /proc/self/mounts; None if unknown."""
    best: Mount | None = None
    try:
        mounts = MOUNTS.read_bytes()
    except OSError:
        return None
    real = path.resolve()
    for line in mounts.split(b"\n"):
        if len(fields := line.split(b" ")) < 3:
            continue
        source, point, kind = (os.fsdecode(_unescape(field)) for field in fields[:3])
        if real.is_relative_to(point) and (best is None or len(point) >= len(best.point)):
            best = Mount(point, kind, source)
    return best


def file_system(path: Path) -> str:
    """Return the file system type of `path`; "" if unknown."""
    mount = mount_of(path)
    return mount.kind if mount else ""


def _unescape(field: bytes) -> bytes:
    r"""Return a field of /proc/mounts with its escapes, such as \\040 for a space, replaced."""
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8) & 255]), field)


def queue_refusal(folder: Path) -> str | None:
    """Return why the SQLite queue must not be in `folder`, or None if it may be.

    SQLite's write-ahead log needs memory shared by all its users, which means one host.
    """
    kind = file_system(folder)
    if kind in NETWORK or kind.removeprefix("fuse.") in _NETWORK_FUSE:
        return f"SQLite is not safe on {kind}; put `state` on a local disk ({folder})"
    return None
