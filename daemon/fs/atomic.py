"""Atomic publish without overwrite, on any file system.

`os.link` if hard links work, else `renameat2(RENAME_NOREPLACE)` (exFAT, some shares).
`probe_commit_method` finds which of the two a folder supports, once at start.
"""

import contextlib
import ctypes
import errno
import filecmp
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path, PurePath

from daemon.fs.names import numbered_names
from daemon.fs.safe_path import open_beneath
from rules.text_file import open_regular

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_UNSUPPORTED_ERRNOS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_UNSUPPORTED_FSYNC_ERRNOS = (*_UNSUPPORTED_ERRNOS, errno.EBADF, errno.EACCES, errno.ENOTTY)
"""Errors of shares that cannot fsync a folder; they sync by themselves."""
_PROBE = ".i2vd-probe-"
_MAX_PROBE_SECONDS = 600.0
"""Age after which a probe file is stale, on this host or another."""


class CommitMethod(StrEnum):
    """How a file gets a new name atomically and exclusively."""

    LINK = "link"
    RENAME = "rename"


class NoCommitMethod(OSError):
    """The folder's file system supports neither method."""


def probe_commit_method(folder: Path) -> CommitMethod:
    """Return the first method that works in `folder`, and remove files of killed probes.

    Raises NoCommitMethod, or another OSError if the folder is not writable.
    """
    stem = folder / f"{_PROBE}{uuid.uuid4().hex}"
    source, target = stem.with_suffix(".a"), stem.with_suffix(".b")
    source.touch()
    try:
        _sweep(folder, source.stat().st_mtime - _MAX_PROBE_SECONDS)
        for method in CommitMethod:
            try:
                publish_exclusive(source, target, method)
            except OSError as error:
                if error.errno not in _UNSUPPORTED_ERRNOS:
                    raise
            else:
                return method
    finally:
        source.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
    raise NoCommitMethod(
        errno.EOPNOTSUPP,
        "neither links nor exclusive renames work on this file system",
        str(folder),
    )


def _sweep(folder: Path, before: float) -> None:
    """Remove probe files with an mtime before `before`, on the folder's own clock."""
    for probe in folder.glob(f"{_PROBE}*"):
        with contextlib.suppress(OSError):
            if probe.lstat().st_mtime < before:
                probe.unlink()


def publish_exclusive(source: Path, target: Path, method: CommitMethod) -> bool:
    """Give `source` the name `target`; return False if another file has that name.

    With LINK the source keeps its old name too. A target that already is the source counts as
    success.
    """
    try:
        if method is CommitMethod.LINK:
            os.link(source, target, follow_symlinks=False)
        else:
            _rename_noreplace(source, target)
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


def move(
    source: Path,
    root: Path,
    inside: PurePath | str,
    announce: Callable[[Path], None] = lambda _: None,
) -> Path:
    """Move a file to `inside` below `root`, or "name-2" and so on; across file systems too.

    Safe to repeat after a crash at any moment: the file always has a name. `announce` is called
    with each path before the file gets it. Raises OSError.
    """
    requested = PurePath(inside)
    root.mkdir(parents=True, exist_ok=True)

    def announce_target(target: Path) -> None:
        announce(root / requested.with_name(target.name))

    with open_beneath(root, requested.parent) as folder:
        try:
            target = _rename_to_free(source, folder, requested.name, announce_target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            copy = _copy(source, folder)
            target = _rename_to_free(copy, folder, requested.name, announce_target)
            fsync_dir(folder)
            remove(source, lambda file: filecmp.cmp(file, target, shallow=False))
        fsync_dir(folder)
    return root / requested.with_name(target.name)


def remove(path: Path, is_ours: Callable[[Path], bool]) -> bool:
    """Unlink a file if `is_ours`; another file that took its name meanwhile keeps it.

    The file is checked under a private name. Safe to repeat after a crash.
    """
    hidden = _hidden(path, "gone")
    if not hidden.exists():
        try:
            _rename(path, hidden)
        except FileNotFoundError:
            return False
    ours = is_ours(hidden)
    if ours:
        hidden.unlink()
    else:
        move(hidden, path.parent, path.name)
    return ours


def _rename_to_free(
    source: Path, folder: Path, name: str, announce: Callable[[Path], None]
) -> Path:
    stem, dot, suffix = name.rpartition(".")
    for candidate in numbered_names(stem or suffix, dot + suffix if stem else ""):
        target = folder / candidate
        if os.path.lexists(target):
            continue
        announce(target)
        if _rename(source, target):
            return target
    raise FileExistsError(errno.EEXIST, "a million files of this name", str(folder / name))


def _rename(source: Path, target: Path) -> bool:
    """Rename a file; link it only if rename is not supported.

    Most pictures have another owner than the daemon, and fs.protected_hardlinks forbids links to
    such files.
    """
    try:
        placed = publish_exclusive(source, target, CommitMethod.RENAME)
        two_names = placed and is_same_file(source, target)  # linked before a crash
    except OSError as error:
        if error.errno not in _UNSUPPORTED_ERRNOS:
            raise
        two_names = placed = publish_exclusive(source, target, CommitMethod.LINK)
    if two_names:
        source.unlink()
    return placed


def _copy(source: Path, folder: Path) -> Path:
    """Copy to a private name in `folder`, with fsync; return the copy's path."""
    copy = _hidden(folder / source.name, "part")
    copy.unlink(missing_ok=True)
    with os.fdopen(open_regular(source), "rb") as original, copy.open("xb") as file:
        shutil.copyfileobj(original, file)
        file.flush()
        shutil.copystat(source, copy, follow_symlinks=False)
        os.fsync(file.fileno())
    return copy


def atomic_write(path: Path, text: str) -> None:
    """Write a new file beside `path`, fsync it, rename it to `path`, and fsync the folder."""
    part = _hidden(path, "part")
    part.unlink(missing_ok=True)
    with part.open("x", encoding="utf-8") as file:  # a symlink of that name is not followed
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    fsync_dir(path.parent)


def _hidden(path: Path, kind: str) -> Path:
    """Return the private name beside a path; it is constant, so a rerun cleans up after a crash."""
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()
    return path.with_name(f".i2vd-{digest[:16]}.{kind}")


def fsync_dir(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED_FSYNC_ERRNOS:
            raise
    finally:
        os.close(descriptor)


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
