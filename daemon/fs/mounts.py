"""Mounts: which file system holds a folder, and what may not lie on it."""

from pathlib import Path

NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "virtiofs", "afs")
_NETWORK_FUSE = ("sshfs", "rclone", "s3fs", "glusterfs", "ceph", "davfs", "smbnetfs", "juicefs")


def file_system(path: Path) -> str:
    """Type of the file system that holds `path`, as /proc/mounts names it; "" if unknown."""
    best, kind = "", ""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    real = path.resolve()
    for line in mounts.splitlines():
        _, point, fs, *_ = line.split()
        point = point.replace("\\040", " ")
        if real.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, fs
    return kind


def queue_refusal(folder: Path) -> str | None:
    """Why the SQLite queue may not lie in `folder`, in a sentence; None when it may.

    SQLite's write-ahead log needs memory that all its users share: one host.
    """
    kind = file_system(folder)
    if kind in NETWORK or kind.removeprefix("fuse.") in _NETWORK_FUSE:
        return f"SQLite is not safe on {kind}; put `state` on a local disk ({folder})"
    return None
