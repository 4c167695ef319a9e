"""Atomic publish without overwrite, on any file system.

`os.link` if hard links work, else `renameat2(RENAME_NOREPLACE)` (exFAT, some shares), else an empty
file of the name that is then replaced (many FUSE file systems). `probe_commit_method` finds which
of them a folder supports.
"""

import contextlib
import ctypes
import errno
import hashlib
import os
from enum import StrEnum
from pathlib import Path

from daemon.fs.probe import new_probe, sweep
from pipeline.durable import fsync_dir, fsync_file

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
UNSUPPORTED_ERRNOS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""Errors of a file system that lacks an operation; some have other reasons too."""


class CommitMethod(StrEnum):
    """How a file gets a new name exclusively; the first two are atomic too."""

    LINK = "link"
    RENAME = "rename"
    RESERVE = "reserve"
    """An empty file holds the name for a moment, and remains if a crash comes then."""


class NoCommitMethod(OSError):
    """The folder's file system supports no method."""


def probe_commit_method(folder: Path) -> CommitMethod:
    """Return the first method that works in `folder`, and remove files of killed probes.

    Raises NoCommitMethod, or another OSError if the folder is not writable.
    """
    stem = new_probe(folder)
    source, target = stem.with_suffix(".a"), stem.with_suffix(".b")
    source.touch()
    try:
        sweep(folder)
        for method in CommitMethod:
            try:
                publish_exclusive(source, target, method)
            except OSError as error:
                if error.errno not in UNSUPPORTED_ERRNOS:
                    raise
            else:
                return method
    finally:
        source.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
    raise NoCommitMethod(
        errno.EOPNOTSUPP, "neither links nor renames work on this file system", str(folder)
    )


def publish_exclusive(source: Path, target: Path, method: CommitMethod) -> bool:
    """Give `source` the name `target`; return False if another file has that name.

    With LINK the source keeps its old name too. A target that already is the source counts as
    success.
    """
    try:
        match method:
            case CommitMethod.LINK:
                os.link(source, target, follow_symlinks=False)
            case CommitMethod.RENAME:
                _rename_noreplace(source, target)
            case CommitMethod.RESERVE:
                _reserve_and_rename(source, target)
    except FileExistsError:
        return is_same_file(source, target)
    return True


def is_same_file(one: Path, other: Path) -> bool:
    """Return True if both paths are one file; some shares (sshfs) report False for one file."""
    try:
        a, b = one.lstat(), other.lstat()
    except FileNotFoundError:
        return False
    return (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)


def atomic_write(path: Path, text: str) -> None:
    """Write a new file beside `path`, fsync it, rename it to `path`, and fsync the folder."""
    part = hidden_name(path, "part")
    part.unlink(missing_ok=True)
    try:
        with part.open("x", encoding="utf-8") as file:  # a symlink of that name is not followed
            file.write(text)
            file.flush()
            fsync_file(file.fileno())
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def hidden_name(path: Path, kind: str) -> Path:
    """Return the private name beside a path; it is constant, so a rerun cleans up after a crash."""
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()
    return path.with_name(f".i2vd-{digest[:16]}.{kind}")


def describe_os_error(error: OSError) -> str:
    """Return the error and its file in one line."""
    return f"{error.strerror}: {error.filename}" if error.filename else str(error)


def _rename_noreplace(source: Path, target: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(
        _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE
    ):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(source), None, str(target))


def _reserve_and_rename(source: Path, target: Path) -> None:
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW))
    try:
        source.rename(target)
    except OSError:
        target.unlink()
        raise
