"""Drop files: the picture of a drop and the overrides beside it leave the inbox, or come back.

Others can write to an inbox, an archive and a failed folder. So each file is reached through no
link, and moved or removed only if its content is the drop's. What took its name meanwhile keeps it,
or gets it back. Every step may be repeated after a crash.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

from daemon.config.settings import Inbox
from daemon.fs.content import has_same_content
from daemon.fs.fingerprint import FileState
from daemon.fs.move import discard_copy, move, remove
from daemon.fs.probe import spelled_path
from daemon.fs.safe_path import find_beneath
from daemon.jobs.job import Job
from daemon.publish.reason_file import remove_reason
from daemon.publish.rejected_clip import remove_rejected_clip
from daemon.storage.folders import folder_of
from pipeline.children.picture_file import picture_digest
from rules.files import sha256_of
from rules.text_file import NotRegular, open_regular

Announce = Callable[[PurePath], None]
"""Callback for a path below the target folder, before the picture gets it."""


class _Override(NamedTuple):
    """An override of a drop, at a place where it may be."""

    path: Path
    sha256: str

    def is_ours(self, file: Path) -> bool:
        """Return True if the file is this override: it has the content that was seen at intake."""
        return self.sha256 != "" and sha256_of(file) == self.sha256


def is_in_inbox(inbox: Inbox, drop: Job) -> bool:
    """Return True if the picture is in the inbox. Raises OSError if that is not known."""
    with _opened(inbox.path, PurePath(drop.path)) as picture:
        return _is_ours(picture, drop)


def delete(inbox: Inbox, drop: Job) -> bool:
    """Remove the overrides and then the picture; False if the picture is gone. Raises OSError."""
    with _opened(inbox.path, PurePath(drop.path)) as picture:
        if _is_ours(picture, drop):
            for override in _overrides_beside(picture, drop):
                remove(override.path, override.is_ours)
        return remove(picture, lambda file: _is_ours(file, drop))


def move_out(inbox: Inbox, drop: Job, root: Path, announce: Announce) -> PurePath | None:
    """Move the picture and its overrides below `root`; return the picture's path there.

    Returns None if the picture is gone. Raises OSError.
    """
    with _opened(inbox.path, PurePath(drop.path)) as picture:
        inside = _find_moved(picture, drop, root)
        if inside is None:
            inside = _move_picture(picture, inbox, drop, root, announce)
        if inside is None:
            with _opened(root, PurePath(drop.picture_path or drop.path)) as target:
                discard_copy(target)
            return None
        for override in _overrides_beside(picture, drop):
            _move_override(override, inbox, drop, root, inside)
        return inside


def restore(inbox: Inbox, job: Job) -> str | None:
    """Move the picture back into the inbox; return its new fingerprint. Raises OSError.

    Returns None if the picture is missing or another file has its name.
    """
    if not is_in_inbox(inbox, job) and not _put_back(inbox, job):
        return None
    with _opened(inbox.path, PurePath(job.path)) as picture:
        return FileState.of(picture.lstat()).fingerprint


@contextlib.contextmanager
def _opened(root: Path, inside: PurePath) -> Iterator[Path]:
    """Open the folder of a file below `root`; yield the file's path, valid across renames.

    If the folder is missing, or a link is in its place, nothing exists there.
    """
    with find_beneath(root, inside.parent) as folder:
        yield folder / inside.name


def _find_moved(picture: Path, drop: Job, root: Path) -> PurePath | None:
    """Return the picture's path below `root` if it was moved before a crash, else None."""
    if drop.picture_path is None:
        return None
    inside = PurePath(drop.picture_path)
    with _opened(root, inside) as target:
        if not _is_recorded(target, drop, picture):
            return None
    # a copy across file systems, whose original was perhaps not removed yet
    remove(picture, lambda file: _is_ours(file, drop))
    return inside


def _move_picture(
    picture: Path, inbox: Inbox, drop: Job, root: Path, announce: Announce
) -> PurePath | None:
    """Return the picture's new path; None if it is gone or another file has its name."""
    if not _is_ours(picture, drop):
        return None
    moved = move(picture, root, drop.path, announce)
    with _opened(root, moved.inside) as target:
        if _has_state(moved.state, drop) or _is_ours(target, drop):
            return moved.inside
        move(target, inbox.path, drop.path)  # a new drop took the name meanwhile
    return None


def _move_override(
    override: _Override, inbox: Inbox, drop: Job, root: Path, picture: PurePath
) -> None:
    """Move an override beside its moved picture, if it exists."""
    suffix = override.path.suffix
    inside = picture.with_name(picture.name + suffix)
    with _opened(root, inside) as copied:  # before a crash
        if os.path.lexists(copied):
            remove(
                override.path,
                lambda file: override.is_ours(file) and has_same_content(file, copied),
            )
    if override.is_ours(override.path):
        moved = move(override.path, root, inside, suffix=suffix)
        with _opened(root, moved.inside) as target:
            if not override.is_ours(target):  # a new one took the name meanwhile
                place = PurePath(drop.path).with_name(override.path.name)
                move(target, inbox.path, place, suffix=suffix)


def _overrides_beside(picture: Path, drop: Job) -> list[_Override]:
    """Return the overrides of a drop, wherever they may be beside its picture in the inbox.

    What was put back there has the picture's name; before, its accents may be written otherwise.
    """
    return [
        _Override(picture.with_name(name), sha256)
        for written, sha256 in drop.overrides
        for name in dict.fromkeys([written, picture.name + PurePath(written).suffix])
    ]


def _put_back(inbox: Inbox, job: Job) -> bool:
    """Move a picture that left the inbox, or was about to, back with its overrides.

    Returns False if it is not found, or another file has its name in the inbox.
    """
    with _opened(inbox.path, PurePath(job.path)) as picture:
        if job.picture_path is None or os.path.lexists(picture):
            return False
    roots = [inbox.archive, inbox.failed]
    if job.picture_location in ("archive", "failed"):
        roots = [folder_of(inbox, job.picture_location)]
    for root in roots:
        with _opened(root, PurePath(job.picture_path)) as picture:
            if not _may_go_back(picture, job):
                continue
            for ending in dict.fromkeys(PurePath(name).suffix for name, _ in job.overrides):
                override = spelled_path(picture.parent, picture.name, ending)
                if os.path.lexists(override) and not override.is_symlink():
                    move(override, inbox.path, job.path + ending, suffix=ending)
            move(picture, inbox.path, job.path)
            remove_reason(picture)
            remove_rejected_clip(job, picture.parent)
            return True
    return False


def _may_go_back(picture: Path, job: Job) -> bool:
    """Return True if this is the job's picture in the archive or the failed folder.

    A picture that was rejected at intake may have been repaired in its place.
    """
    if _is_recorded(picture, job, picture):
        return True
    was_rejected = job.spec is None and job.picture_location == "failed"
    return was_rejected and FileState.find(picture) is not None


def _is_recorded(target: Path, drop: Job, picture: Path) -> bool:
    """Return True if the file at the path that the queue has recorded is the drop's.

    A picture that was never decoded has no digest, and its copy perhaps another time.
    """
    if _is_ours(target, drop):
        return True
    seen = FileState.find(target)
    if drop.sha256 or seen is None or seen.size != _size_of(drop):
        return False
    return not os.path.lexists(picture) or has_same_content(picture, target)


def _is_ours(file: Path, drop: Job) -> bool:
    """Return True if the file is the drop's, or has the same content; others must not change."""
    seen = FileState.find(file)
    if seen is None:
        return False
    if _has_state(seen, drop):
        return True
    if not drop.sha256 or seen.size != _size_of(drop):
        return False
    try:
        with os.fdopen(open_regular(file), "rb") as content:
            return picture_digest(content) == drop.sha256
    except (FileNotFoundError, NotRegular):
        return False


def _has_state(seen: FileState, drop: Job) -> bool:
    """Return True if this is the state in which the drop was seen."""
    return seen.fingerprint == drop.fingerprint


def _size_of(drop: Job) -> int | None:
    """Return the size of a drop's picture in bytes; None if its fingerprint was damaged."""
    size = drop.fingerprint.partition("-")[0]
    return int(size) if re.fullmatch("[0-9]{1,19}", size) else None
