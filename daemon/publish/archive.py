"""Archival: move, keep or delete a picture once its jobs have finished.

It runs only after the queue has recorded the result. A failed picture moves to `failed/` with a
file that gives the reason. Every step may be repeated after a crash: the queue records the target
of a picture before the move, so that it is found there again.
"""

import filecmp
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePath

import structlog

from daemon.config.settings import Inbox, Settings
from daemon.fs.atomic import atomic_write, describe_os_error, move, remove
from daemon.fs.fingerprint import FileState
from daemon.fs.names import truncate_name
from daemon.fs.safe_path import open_beneath
from daemon.jobs.database import Database
from daemon.jobs.job import OPEN, Job
from daemon.jobs.queries import JobQueries
from daemon.jobs.store import JobStore
from daemon.storage.folders import folder_of
from daemon.storage.volumes import VolumeMarkers
from rules.text_file import open_regular

OVERRIDE_SUFFIXES = (".toml", ".txt")

log = structlog.get_logger()


class Archive:
    """Moves finished pictures. `last_error`: why some are still in the inbox, or None."""

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
        for job in self._queries.pending_archival():
            try:
                self._archive(job)
            except OSError as error:
                self._record_error(job, error)
        if self._failures == before:  # and no error in another thread meanwhile
            self.last_error = None

    def _record_error(self, job: Job, error: OSError) -> None:
        """Log the error once, however many pictures it affects."""
        reason = describe_os_error(error)
        if self.last_error is None:
            log.error("picture not archived, kept in the inbox", job=job.id, reason=reason)
        self.last_error = f"pictures cannot leave the inbox: {reason}"
        self._failures += 1

    def _archive(self, job: Job) -> None:
        """Archive under a lock: for two hosts that move one picture, it would look gone to one."""
        first = self._queries.siblings(job)[0].id
        with self._database.advisory_lock(f"settle {first}", wait=True):
            self._archive_locked(job)

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
            _write_reason(inbox, target, siblings)
            self._store.moved(drop, "failed", str(target.relative_to(inbox.failed)))
            log.info("picture moved to failed", job=job.id, to=str(target))

    def _archive_success(self, inbox: Inbox, picture: Path, drop: Job) -> None:
        if inbox.on_success == "keep":
            self._store.moved(drop, "kept" if _is_ours(picture, drop) else "gone")
        elif inbox.on_success == "delete":
            for override, _ in _override_files(picture):
                override.unlink(missing_ok=True)
            ours = remove(picture, lambda file: _is_ours(file, drop))
            self._store.moved(drop, "deleted" if ours else "gone")
        elif target := self._move_with_overrides(picture, inbox.archive, drop):
            self._store.moved(drop, "archive", str(target.relative_to(inbox.archive)))
            log.info("picture archived", job=drop.id, to=str(target))

    def _move_with_overrides(self, picture: Path, root: Path, drop: Job) -> Path | None:
        """Move the picture and its overrides below `root`; return None if the picture is gone."""
        target = _already_moved(picture, root, drop) or self._move_picture(picture, root, drop)
        if target is None:
            self._store.moved(drop, "gone")
            return None
        for ending in OVERRIDE_SUFFIXES:
            _move_override(picture.with_name(picture.name + ending), target, ending, drop)
        return target

    def _move_picture(self, picture: Path, root: Path, drop: Job) -> Path | None:
        """Return the picture's new path; None if it is gone or another file has its name."""
        if not _is_ours(picture, drop):
            return None
        target = move(
            picture,
            root,
            drop.path,
            announce=lambda path: self._store.moved(drop, "inbox", str(path.relative_to(root))),
        )
        if _is_ours(target, drop):
            return target
        inbox = _root_of(picture, drop)
        move(target, inbox, drop.path)  # a new drop took the name meanwhile: not this job's picture
        return None


def keep_rejected_clip(inbox: Inbox, job: Job, clip: Path) -> None:
    """Move a clip that the quality check rejected to the failed folder, if there is one."""
    if clip.is_file():
        move(clip, inbox.failed, _rejected_clip(inbox, job).relative_to(inbox.failed))


def _already_moved(picture: Path, root: Path, drop: Job) -> Path | None:
    """Return the picture's path below `root` if it was moved before a crash, else None."""
    if drop.picture_path is None:
        return None
    target = root / drop.picture_path
    if not _is_ours(target, drop):
        return None
    if picture.parent.is_dir():  # a copy across file systems, whose original was not removed yet
        remove(picture, lambda file: _is_ours(file, drop))
    return target


def _move_override(override: Path, picture: Path, ending: str, drop: Job) -> None:
    """Move an override beside its moved picture, if it exists."""
    target = picture.with_name(picture.name + ending)
    if os.path.lexists(target):  # copied before a crash
        remove(override, lambda file: filecmp.cmp(file, target, shallow=False))
    if os.path.lexists(override) and not override.is_symlink():
        root = _root_of(picture, drop)
        move(override, root, target.relative_to(root))


def _root_of(path: Path, drop: Job) -> Path:
    """Return the folder below which a drop was put; the configuration may have changed since."""
    return path.parents[len(PurePath(drop.path).parents) - 1]


def restore(inbox: Inbox, job: Job, host: str) -> str | None:
    """Undo archival: move the picture back into the inbox and return its new fingerprint.

    Returns None if the picture is missing or another file has its name.
    """
    picture = inbox.path / job.path
    if not _is_ours(picture, job):
        archived = _find_archived(inbox, job)
        if archived is None or os.path.lexists(picture):
            return None
        for override, ending in _override_files(archived):
            move(override, inbox.path, job.path + ending)
        move(archived, inbox.path, job.path)
        _reason_file(archived).unlink(missing_ok=True)
        _rejected_clip(inbox, job).unlink(missing_ok=True)
    status = picture.lstat()
    return FileState.of(status).fingerprint(host)


def _find_archived(inbox: Inbox, job: Job) -> Path | None:
    """Return the path of a picture that left the inbox, or was about to; None if not found."""
    if job.picture_path is None:
        return None
    roots = [inbox.archive, inbox.failed]
    if job.picture_location in ("archive", "failed"):
        roots = [folder_of(inbox, job.picture_location)]
    places = (root / job.picture_path for root in roots)
    return next((place for place in places if _is_ours(place, job)), None)


def _write_reason(inbox: Inbox, picture: Path, failed: Sequence[Job]) -> None:
    """Write the reason and the remedy beside a picture in the failed folder."""
    reasons = [
        {
            "job": job.id,
            "state": job.state,
            "reason": job.error,
            "tries": job.failures + 1,
            "look": look.name if (look := _rejected_clip(inbox, job)).is_file() else None,
            "at": datetime.fromtimestamp(job.finished or 0, UTC).isoformat(timespec="seconds"),
            "again": f"i2vd retry {job.id}"
            if job.spec
            else "put a sound picture into the inbox again",
        }
        for job in failed
    ]
    file = _reason_file(picture)
    root = _root_of(picture, failed[0])
    with open_beneath(root, file.parent.relative_to(root)) as folder:
        text = json.dumps(reasons, indent=2, ensure_ascii=False) + "\n"
        atomic_write(folder / file.name, text)


def _rejected_clip(inbox: Inbox, job: Job) -> Path:
    """Return the path of the rejected clip; its name does not look like a finished clip's."""
    picture = inbox.failed / job.path
    return picture.with_name(truncate_name(picture.name, f".refused-{job.id}.mp4"))


def _reason_file(picture: Path) -> Path:
    return picture.with_name(truncate_name(picture.name, ".reason.json"))


def _override_files(picture: Path) -> Iterator[tuple[Path, str]]:
    """Yield the overrides of a picture, each with its suffix."""
    for ending in OVERRIDE_SUFFIXES:
        override = picture.with_name(picture.name + ending)
        if os.path.lexists(override) and not override.is_symlink():
            yield override, ending


def _is_ours(file: Path, drop: Job) -> bool:
    """Return True if the file is the drop's, or has the same content; others must not change."""
    try:
        status = file.lstat()
        if not stat.S_ISREG(status.st_mode):
            return False
        seen, state = FileState.of(status), drop.fingerprint.partition("@")[0]
        if seen.state == state:
            return True
        size, _, mtime_ns = state.rpartition("-")[0].partition("-")
        if seen.size != int(size):
            return False
        if not drop.sha256:  # never decoded, but a copy keeps its mtime
            return seen.mtime_ns == int(mtime_ns)
        with os.fdopen(open_regular(file), "rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == drop.sha256
    except OSError:
        return False
