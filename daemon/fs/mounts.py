"""Mounts: the file system type of a folder, and which types the queue must avoid."""

from pathlib import Path

NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "virtiofs", "afs")
_NETWORK_FUSE = ("sshfs", "rclone", "s3fs", "glusterfs", "ceph", "davfs", "smbnetfs", "juicefs")


def file_system(path: Path) -> str:
    """Return the file system type of `path` as in /proc/mounts; "" if unknown."""
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
    """Return why the SQLite queue must not be in `folder`, or None if it may be.

    SQLite's write-ahead log needs memory shared by all its users, which means one host.
    """
    kind = file_system(folder)
    if kind in NETWORK or kind.removeprefix("fuse.") in _NETWORK_FUSE:
        return f"SQLite is not safe on {kind}; put `state` on a local disk ({folder})"
    return None
