"""Move: a file gets another folder, across file systems too, and is never without a name.

Only the content must arrive. Time and permissions follow where the target keeps them.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path, PurePath
from typing import NamedTuple

from daemon.fs.atomic import (
    UNSUPPORTED_ERRNOS,
    CommitMethod,
    hidden_name,
    is_same_file,
    publish_exclusive,
)
from daemon.fs.content import copy_content, has_same_content
from daemon.fs.fingerprint import FileState
from daemon.fs.names import UNCHANGED, NameRules, numbered_names
from daemon.fs.probe import check_takes_files, find_name_rules
from daemon.fs.safe_path import create_beneath
from pipeline.durable import fsync_dir, fsync_file
from rules.text_file import open_regular


class Moved(NamedTuple):
    """A move: the new path below the root, and the state that the file had at its old one."""

    inside: PurePath
    state: FileState


def move(
    source: Path,
    root: Path,
    inside: PurePath | str,
    announce: Callable[[PurePath], None] = lambda _: None,
    *,
    suffix: str | None = None,
) -> Moved:
    """Move a file to `inside` below `root`, or "name-2" and so on; across file systems too.

    Where others can replace the folder of the source, safe_path.py opens it first. A name that a
    folder does not take is spelled so that it does; `suffix`, by default the part after the last
    dot, is left as it is. Safe to repeat after a crash at any moment: the file always has a name.
    `announce` is called with each path below `root` before the file gets it. Raises OSError, which
    names the file or folder that refused.
    """
    requested = PurePath(inside)
    if suffix is None:
        suffix = _suffix_of(requested.name)
    stem = requested.name.removesuffix(suffix)
    root.mkdir(parents=True, exist_ok=True)
    with create_beneath(root, requested.parent) as (folder, parent):

        def announce_target(target: Path) -> None:
            announce(parent / target.name)

        try:
            target, state = _place(source, folder, stem, suffix, UNCHANGED, announce_target)
        except OSError:
            rules = find_name_rules(folder, stem, suffix)
            try:
                if rules is None:
                    raise
                target, state = _place(source, folder, stem, suffix, rules, announce_target)
            except OSError as error:
                _check_source(source, error)
                raise
        fsync_dir(folder)
    return Moved(parent / target.name, state)


def remove(path: Path, is_ours: Callable[[Path], bool]) -> bool:
    """Unlink a file if `is_ours`; another file that took its name meanwhile keeps it.

    The file is checked under a private name. Safe to repeat after a crash.
    """
    hidden = hidden_name(path, "gone")
    if not hidden.exists():
        try:
            _rename(path, hidden)
        except FileNotFoundError:
            return False
        except OSError as error:
            _check_source(path, error)
            raise
    ours = is_ours(hidden)
    if ours:
        hidden.unlink()
    else:
        move(hidden, path.parent, path.name)
    return ours


def discard_copy(target: Path) -> None:
    """Remove what a crash left of a copy to `target`."""
    with contextlib.suppress(OSError):
        hidden_name(target, "part").unlink(missing_ok=True)


def _suffix_of(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return dot + suffix if stem else ""


def _check_source(source: Path, error: OSError) -> None:
    """Raise the error for the folder of `source`, if that is what keeps the file."""
    if isinstance(error, FileNotFoundError):
        return
    check_takes_files(source.parent)


def _place(
    source: Path,
    folder: Path,
    stem: str,
    suffix: str,
    rules: NameRules,
    announce: Callable[[Path], None],
) -> tuple[Path, FileState]:
    """Rename the file to a free name in `folder`, or copy it there and remove it."""
    try:
        target = _rename_to_free(source, folder, numbered_names(stem, suffix, rules), announce)
        return target, FileState.of(target.lstat())
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    copy = hidden_name(folder / rules.spell(stem, suffix), "part")
    try:
        state = copy_file(source, copy)
        target = _rename_to_free(copy, folder, numbered_names(stem, suffix, rules), announce)
    finally:
        copy.unlink(missing_ok=True)
    fsync_dir(folder)
    remove(source, lambda file: has_same_content(file, target))
    return target, state


def _rename_to_free(
    source: Path, folder: Path, names: Iterable[str], announce: Callable[[Path], None]
) -> Path:
    for name in names:
        target = folder / name
        if os.path.lexists(target):
            continue
        announce(target)
        if _rename(source, target):
            return target
    raise FileExistsError(errno.EEXIST, "a million files of this name", str(target))


def _rename(source: Path, target: Path) -> bool:
    """Rename a file; link it only if rename is not supported.

    Most pictures have another owner than the daemon, and fs.protected_hardlinks forbids links to
    such files. A rename that is not permitted is no reason to link: in a folder with the sticky bit
    the file would then have two names, and could lose neither.
    """
    for method in (CommitMethod.RENAME, CommitMethod.LINK, CommitMethod.RESERVE):
        try:
            placed = publish_exclusive(source, target, method)
        except OSError as error:
            refused = method is CommitMethod.RENAME and error.errno == errno.EPERM
            if refused or error.errno not in UNSUPPORTED_ERRNOS or method is CommitMethod.RESERVE:
                raise
        else:
            # linked, now or before a crash; sshfs shows two inodes of one file
            if placed and (method is CommitMethod.LINK or is_same_file(source, target)):
                source.unlink()
            return placed
    raise AssertionError


def copy_file(source: Path, copy: Path) -> FileState:
    """Copy to a new file, with fsync; return the state of the source."""
    copy.unlink(missing_ok=True)
    with os.fdopen(open_regular(source), "rb") as original, copy.open("xb") as file:
        status = os.fstat(original.fileno())
        try:
            copy_content(original.fileno(), file.fileno())
        except OSError as error:  # the file that was full has no name in it
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise OSError(error.errno, error.strerror, str(copy if full else source)) from error
        for keep in (_copy_time, _copy_mode):
            with contextlib.suppress(OSError):
                keep(status, file.fileno())
        fsync_file(file.fileno())
    return FileState.of(status)


def _copy_time(status: os.stat_result, copy: int) -> None:
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))


def _copy_mode(status: os.stat_result, copy: int) -> None:
    os.fchmod(copy, stat.S_IMODE(status.st_mode))
