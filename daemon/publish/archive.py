"""Archival: move, keep or delete a picture once its jobs have finished.

It runs only after the queue has recorded the result. A failed picture moves to `failed/` with a
file that gives the reason. Every step may be repeated after a crash: the queue records the target
of a picture before the move, so that it is found there again.
"""

import contextlib
import filecmp
import hashlib
import os
import re
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import structlog

from daemon.config.settings import Inbox, Settings
from daemon.fs.atomic import describe_os_error
from daemon.fs.fingerprint import FileState
from daemon.fs.move import discard_copy, move, remove
from daemon.fs.probe import spelled_path
from daemon.jobs.database import Database, QueueUnavailable
from daemon.jobs.job import OPEN, Job
from daemon.jobs.queries import JobQueries
from daemon.jobs.store import JobStore
from daemon.publish.reason_file import remove_reason, write_reason
from daemon.storage.folders import folder_of
from daemon.storage.scope import find_folder_error
from daemon.storage.volumes import VolumeMarkers
from rules.text_file import NotRegular, open_regular

_ROLES = ("inbox", "archive", "failed")
_MIN_DELAY_SECONDS = 2.0
_MAX_DELAY_SECONDS = 300.0

log = structlog.get_logger()


@dataclass
class _Wait:
    """A picture that cannot be archived now, for a reason of its own."""

    reason: str
    delay: float
    retry_at: float
    """Monotonic time of the next try."""


class Archive:
    """Moves finished pictures. `last_error`: why none can leave the inbox, or None.

    A picture that is refused alone waits, and stops no other.
    """

    def __init__(
        self,
        database: Database,
        store: JobStore,
        queries: JobQueries,
        settings: Settings,
        markers: VolumeMarkers,
    ) -> None:
        self.last_error: str | None = None
        self._failures = 0
        self._waits: dict[tuple[str, str, int], _Wait] = {}
        """Pictures that wait alone, by drop."""
        self._database = database
        self._store = store
        self._queries = queries
        self._settings = settings
        self._markers = markers

    def archive_job(self, job: Job) -> None:
        """Archive the picture of a job's drop once no job needs it; I/O errors are retried."""
        try:
            self._archive(job)
        except OSError as error:
            self._record_error(job, error)

    def archive_pending(self) -> None:
        """Archive all pictures that a crash or an I/O error left; success clears `last_error`.

        Raises QueueUnavailable.
        """
        before = self._failures
        pending = self._queries.pending_archival()
        for drop in self._waits.keys() - {_drop_of(job) for job in pending}:
            self._waits.pop(drop, None)  # another host was first
        for job in pending:
            wait = self._waits.get(_drop_of(job))
            if wait is None or wait.retry_at <= time.monotonic():
                self.archive_job(job)
        if self._failures == before:  # and no error in another thread meanwhile
            self.last_error = None

    def has_due(self) -> bool:
        """Return True if `archive_pending` has something to try again."""
        now = time.monotonic()
        waits = [*self._waits.values()]
        return self.last_error is not None or any(wait.retry_at <= now for wait in waits)

    def _record_error(self, job: Job, error: OSError) -> None:
        inbox = self._settings.inbox_named(job.inbox)
        trouble = error if inbox is None else find_folder_error(inbox, error, _ROLES)
        if trouble is None:
            self._let_wait(job, describe_os_error(error))
            return
        reason = describe_os_error(trouble)
        if self.last_error is None:  # once, however many pictures it affects
            log.error("picture not archived, kept in the inbox", job=job.id, reason=reason)
        self.last_error = f"pictures cannot leave the inbox: {reason}"
        self._failures += 1

    def _let_wait(self, job: Job, reason: str) -> None:
        """Try this picture again later, with doubled delay; log a reason once."""
        drop, now = _drop_of(job), time.monotonic()
        known = self._waits.get(drop)
        delay = _MIN_DELAY_SECONDS if known is None else min(2 * known.delay, _MAX_DELAY_SECONDS)
        if all(wait.reason != reason for wait in [*self._waits.values()]):
            log.error("picture not archived, kept in the inbox", job=job.id, reason=reason)
        self._waits[drop] = _Wait(reason, delay, now + delay)
        if job.archival_error != reason and (known is None or known.reason != reason):
            with contextlib.suppress(QueueUnavailable):
                self._store.block_archival(job, reason)

    def _archive(self, job: Job) -> None:
        """Archive under a lock: for two hosts that move one picture, it would look gone to one."""
        first = self._queries.siblings(job)[0].id
        with self._database.advisory_lock(f"settle {first}", wait=True):
            self._archive_locked(job)
        self._waits.pop(_drop_of(job), None)

    def _archive_locked(self, job: Job) -> None:
        inbox = self._settings.inbox_named(job.inbox)
        siblings = self._queries.siblings(job)
        if inbox is None or any(sibling.state in OPEN for sibling in siblings):
            return
        drop, picture = siblings[0], inbox.path / job.path
        if drop.picture_location != "inbox":  # another host was first
            return
        self._markers.check(inbox)
        if any(sibling.state == "done" for sibling in siblings):
            self._archive_success(inbox, picture, drop)
        elif target := self._move_with_overrides(picture, inbox.failed, drop):
            self._write_reason(inbox, target, siblings)
            self._store.moved(drop, "failed", str(target.relative_to(inbox.failed)))
            log.info("picture moved to failed", job=job.id, to=str(target))

    def _archive_success(self, inbox: Inbox, picture: Path, drop: Job) -> None:
        if inbox.on_success == "keep":
            self._store.moved(drop, "kept" if _is_ours(picture, drop) else "gone")
        elif inbox.on_success == "delete":
            for override in _override_paths(picture, drop):
                if not override.is_symlink():
                    override.unlink(missing_ok=True)
            ours = remove(picture, lambda file: _is_ours(file, drop))
            self._store.moved(drop, "deleted" if ours else "gone")
        elif target := self._move_with_overrides(picture, inbox.archive, drop):
            self._store.moved(drop, "archive", str(target.relative_to(inbox.archive)))
            log.info("picture archived", job=drop.id, to=str(target))

    def _write_reason(self, inbox: Inbox, picture: Path, failed: Sequence[Job]) -> None:
        """Write the reason beside the picture; what refuses this file alone does not hold it up."""
        try:
            clips = {job.id: spelled_path(picture.parent, *_rejected_clip(job)) for job in failed}
            kept = {job: clip.name for job, clip in clips.items() if clip.is_file()}
            write_reason(picture, failed, kept)
        except OSError as error:
            if find_folder_error(inbox, error, _ROLES) is not None:
                raise
            log.warning("reason not written", job=failed[0].id, reason=describe_os_error(error))

    def _move_with_overrides(self, picture: Path, root: Path, drop: Job) -> Path | None:
        """Move the picture and its overrides below `root`; return None if the picture is gone."""
        target = _already_moved(picture, root, drop) or self._move_picture(picture, root, drop)
        if target is None:
            discard_copy(root / (drop.picture_path or drop.path))
            self._store.moved(drop, "gone")
            return None
        for override in _override_paths(picture, drop):
            _move_override(override, target, drop)
        return target

    def _move_picture(self, picture: Path, root: Path, drop: Job) -> Path | None:
        """Return the picture's new path; None if it is gone or another file has its name."""
        if not _is_ours(picture, drop):
            return None
        moved = move(
            picture,
            root,
            drop.path,
            announce=lambda path: self._store.moved(drop, "inbox", str(path.relative_to(root))),
        )
        if _has_state(moved.state, drop) or _is_ours(moved.path, drop):
            return moved.path
        inbox = _root_of(picture, drop)
        move(moved.path, inbox, drop.path)  # a new drop took the name meanwhile: not this picture
        return None


def keep_rejected_clip(inbox: Inbox, job: Job, clip: Path) -> None:
    """Move a clip that the quality check rejected to the failed folder, if there is one.

    It is for inspection only: without it, the job is failed all the same.
    """
    try:
        if clip.is_file():
            stem, suffix = _rejected_clip(job)
            inside = PurePath(job.path).with_name(stem + suffix)
            move(clip, inbox.failed, inside, suffix=suffix)
    except OSError as error:
        log.warning("rejected clip not kept", job=job.id, reason=describe_os_error(error))


def _already_moved(picture: Path, root: Path, drop: Job) -> Path | None:
    """Return the picture's path below `root` if it was moved before a crash, else None."""
    if drop.picture_path is None:
        return None
    target = root / drop.picture_path
    if not _is_recorded(target, drop, picture):
        return None
    if picture.parent.is_dir():  # a copy across file systems, whose original was not removed yet
        remove(picture, lambda file: _is_ours(file, drop))
    return target


def _is_recorded(target: Path, drop: Job, picture: Path) -> bool:
    """Return True if the file at the path that the queue has recorded is the drop's.

    A picture that was never decoded has no digest, and its copy perhaps another time.
    """
    if _is_ours(target, drop):
        return True
    if drop.sha256 or not target.is_file() or target.lstat().st_size != _size_of(drop):
        return False
    return not picture.exists() or filecmp.cmp(picture, target, shallow=False)


def _move_override(override: Path, picture: Path, drop: Job) -> None:
    """Move an override beside its moved picture, if it exists."""
    target = picture.with_name(picture.name + override.suffix)
    if os.path.lexists(target):  # copied before a crash
        remove(override, lambda file: filecmp.cmp(file, target, shallow=False))
    if override.is_file() and not override.is_symlink():  # a folder of that name is no override
        root = _root_of(picture, drop)
        move(override, root, target.relative_to(root), suffix=override.suffix)


def _root_of(path: Path, drop: Job) -> Path:
    """Return the folder below which a drop was put; the configuration may have changed since."""
    return path.parents[len(PurePath(drop.path).parents) - 1]


def restore(inbox: Inbox, job: Job) -> str | None:
    """Undo archival: move the picture back into the inbox and return its new fingerprint.

    Returns None if the picture is missing or another file has its name.
    """
    picture = inbox.path / job.path
    if not _is_ours(picture, job):
        archived = _find_archived(inbox, job)
        if archived is None or os.path.lexists(picture):
            return None
        for ending in dict.fromkeys(PurePath(name).suffix for name in job.overrides):
            override = spelled_path(archived.parent, archived.name, ending)
            if os.path.lexists(override) and not override.is_symlink():
                move(override, inbox.path, job.path + ending, suffix=ending)
        move(archived, inbox.path, job.path)
        remove_reason(archived)
        with contextlib.suppress(OSError):
            spelled_path(archived.parent, *_rejected_clip(job)).unlink(missing_ok=True)
    return FileState.of(picture.lstat()).fingerprint


def _find_archived(inbox: Inbox, job: Job) -> Path | None:
    """Return the path of a picture that left the inbox, or was about to; None if not found.

    A picture that was rejected at intake may have been repaired in its place.
    """
    if job.picture_path is None:
        return None
    roots = [inbox.archive, inbox.failed]
    if job.picture_location in ("archive", "failed"):
        roots = [folder_of(inbox, job.picture_location)]
    places = (root / job.picture_path for root in roots)
    may_differ = job.spec is None and job.picture_location == "failed"
    return next(
        (p for p in places if _is_recorded(p, job, p) or (may_differ and p.is_file())), None
    )


def _rejected_clip(job: Job) -> tuple[str, str]:
    """Return stem and suffix of a rejected clip; its name does not look like a finished clip's."""
    return PurePath(job.path).name, f".refused-{job.id}.mp4"


def _override_paths(picture: Path, drop: Job) -> list[Path]:
    """Return where the overrides of a drop may be, beside its picture in the inbox.

    What was put back there has the picture's name; before, its accents may be written otherwise.
    """
    names = [*drop.overrides, *(picture.name + PurePath(name).suffix for name in drop.overrides)]
    return [picture.with_name(name) for name in dict.fromkeys(names)]


def _is_ours(file: Path, drop: Job) -> bool:
    """Return True if the file is the drop's, or has the same content; others must not change."""
    try:
        status = file.lstat()
        if not stat.S_ISREG(status.st_mode):
            return False
        seen = FileState.of(status)
        if _has_state(seen, drop):
            return True
        if not drop.sha256 or seen.size != _size_of(drop):
            return False
        with os.fdopen(open_regular(file), "rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == drop.sha256
    except (FileNotFoundError, NotADirectoryError, NotRegular):  # other errors do not tell
        return False


def _has_state(seen: FileState, drop: Job) -> bool:
    """Return True if this is the state in which the drop was seen."""
    return seen.fingerprint == drop.fingerprint


def _size_of(drop: Job) -> int | None:
    """Return the size of a drop's picture in bytes; None if its fingerprint was damaged."""
    size = drop.fingerprint.partition("-")[0]
    return int(size) if re.fullmatch("[0-9]{1,19}", size) else None


def _drop_of(job: Job) -> tuple[str, str, int]:
    return job.inbox, job.path, job.drop
