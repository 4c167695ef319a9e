"""Putting a file at a name that nobody holds, without ever overwriting, on any file system.

`os.link` where links work; `renameat2(RENAME_NOREPLACE)` where they do not (exFAT, some shares).
Which of the two a folder can do is found by `probe`, once at start.
"""

import contextlib
import ctypes
import errno
import filecmp
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path, PurePath

from daemon.fs.safe_path import open_beneath

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_UNSUPPORTED_ERRNOS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_UNSUPPORTED_FSYNC_ERRNOS = (*_UNSUPPORTED_ERRNOS, errno.EBADF, errno.EACCES, errno.ENOTTY)
"""What shares say that know no fsync of a folder, and sync by themselves."""
_NAME_MAX = 255
_PROBE = ".i2vd-probe-"
_PROBED = 600.0
"""Seconds after which no probe goes on any more, neither here nor on another host."""


class CommitMethod(StrEnum):
    """How a folder lets a file appear under a new name at once and exclusively."""

    LINK = "link"
    RENAME = "rename"


class NoCommitMethod(OSError):
    """The folder's file system can do neither."""


def probe_commit_method(folder: Path) -> CommitMethod:
    """Try both methods in `folder`. Raises NoMethod, or OSError when it cannot be written.

    What a probe left that was killed is removed.
    """
    stem = folder / f"{_PROBE}{uuid.uuid4().hex}"
    source, target = stem.with_suffix(".a"), stem.with_suffix(".b")
    source.touch()
    try:
        _sweep(folder, source.stat().st_mtime - _PROBED)
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
    """Remove the files of probes, last written before that time on the folder's own clock."""
    for left in folder.glob(f"{_PROBE}*"):
        with contextlib.suppress(OSError):
            if left.lstat().st_mtime < before:
                left.unlink()


def publish_exclusive(source: Path, target: Path, method: CommitMethod) -> bool:
    """Give `source` the name `target`; False when another file holds it.

    With LINK the source keeps its old name too. A target that is the source already is ours.
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
    """Whether both names mean one file; some shares (sshfs) say no though they do."""
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

    Safe to repeat after a crash at any moment: the file is never without a name. `announce` is told
    each path before the file is put there. Raises OSError.
    """
    wish = PurePath(inside)
    root.mkdir(parents=True, exist_ok=True)

    def announced(target: Path) -> None:
        announce(root / wish.with_name(target.name))

    with open_beneath(root, wish.parent) as folder:
        try:
            target = _first_free(source, folder, wish.name, announced)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            target = _first_free(_copy(source, folder), folder, wish.name, announced)
            fsync_dir(folder)
            remove(source, lambda file: filecmp.cmp(file, target, shallow=False))
        fsync_dir(folder)
    return root / wish.with_name(target.name)


def remove(path: Path, is_ours: Callable[[Path], bool]) -> bool:
    """Unlink a file if it is ours; another that took its name meanwhile keeps it.

    The file is looked at under a name that nobody else knows. After a crash: do it again.
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


def _first_free(source: Path, folder: Path, name: str, announce: Callable[[Path], None]) -> Path:
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
    """Rename rather than link: the kernel lets nobody link a file of another owner.

    (fs.protected_hardlinks; and most pictures are dropped by others than the daemon.)
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
    """A durable copy under a private name in `folder`."""
    copy = _hidden(folder / source.name, "part")
    copy.unlink(missing_ok=True)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
    with os.fdopen(os.open(source, flags), "rb") as original, copy.open("xb") as file:
        shutil.copyfileobj(original, file)
        file.flush()
        shutil.copystat(source, copy, follow_symlinks=False)
        os.fsync(file.fileno())
    return copy


def atomic_write(path: Path, text: str) -> None:
    """Write a new file beside its name, fsync it, and give it its name."""
    part = _hidden(path, "part")
    part.unlink(missing_ok=True)
    with part.open("x", encoding="utf-8") as file:  # never through a link of that name
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    fsync_dir(path.parent)


def _hidden(path: Path, kind: str) -> Path:
    """A private name beside a path, always the same, so that a crash leaves nothing for ever."""
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


def numbered_names(stem: str, suffix: str) -> Iterator[str]:
    """`cat.mp4`, `cat-2.mp4`, ..., each short enough for a file system."""
    for number in range(1, 1_000_000):
        tail = (f"-{number}" if number > 1 else "") + suffix
        room = _NAME_MAX - len(tail.encode())
        yield stem.encode()[:room].decode(errors="ignore") + tail


def truncate_name(stem: str, suffix: str) -> str:
    """The name made of both, the stem cut so that a file system takes it."""
    return next(numbered_names(stem, suffix))


def describe_os_error(error: OSError) -> str:
    """What went wrong with which file, in one line."""
    return f"{error.strerror}: {error.filename}" if error.filename else str(error)


def _rename_noreplace(source: Path, target: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(
        _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE
    ):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(source), None, str(target))
