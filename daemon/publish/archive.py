"""Archival: move, keep or delete a picture once its jobs have finished.

It runs only after the queue has recorded the result. A failed picture moves to `failed/` with a
file that gives the reason. Every step may be repeated after a crash: the queue records the target
of a picture before the move, so that it is found there again.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import structlog

from daemon.config.settings import Inbox, Settings
from daemon.fs.atomic import describe_os_error
from daemon.fs.fingerprint import FileState
from daemon.fs.safe_path import open_beneath
from daemon.jobs.database import Database, QueueUnavailable
from daemon.jobs.job import OPEN, Job
from daemon.jobs.queries import JobQueries
from daemon.jobs.store import JobStore
from daemon.publish import drop_files
from daemon.publish.reason_file import write_reason
from daemon.publish.rejected_clip import rejected_clip_of
from daemon.storage.scope import find_folder_error
from daemon.storage.volumes import VolumeMarkers

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
    """Moves finished pictures; its methods are called in a thread of the inbox.

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
        self._errors: dict[str, str] = {}
        """Why no picture can leave an inbox, by inbox."""
        self._failures: Counter[str] = Counter()
        """Errors of each inbox since the start."""
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

    def archive_pending(self, inbox: Inbox) -> None:
        """Archive all pictures of an inbox that a crash or an I/O error left.

        Success clears the inbox's error. Raises QueueUnavailable.
        """
        before = self._failures[inbox.name]
        pending = [job for job in self._queries.pending_archival() if job.inbox == inbox.name]
        drops = {_drop_of(job) for job in pending}
        for drop in [*self._waits]:
            if drop[0] == inbox.name and drop not in drops:
                self._waits.pop(drop, None)  # another host was first
        for job in pending:
            wait = self._waits.get(_drop_of(job))
            if wait is None or wait.retry_at <= time.monotonic():
                self.archive_job(job)
        if self._failures[inbox.name] == before:  # and no error in another thread meanwhile
            self._errors.pop(inbox.name, None)

    @property
    def last_error(self) -> str | None:
        """Why no picture can leave an inbox; None if all can."""
        return next(iter([*self._errors.values()]), None)

    def has_due(self, inbox: Inbox) -> bool:
        """Return True if `archive_pending` has something to try again in an inbox."""
        now = time.monotonic()
        waits = [*self._waits.items()]
        return inbox.name in self._errors or any(
            drop[0] == inbox.name and wait.retry_at <= now for drop, wait in waits
        )

    def _record_error(self, job: Job, error: OSError) -> None:
        inbox = self._settings.inbox_named(job.inbox)
        trouble = error if inbox is None else find_folder_error(inbox, error, _ROLES)
        if trouble is None:
            self._let_wait(job, describe_os_error(error))
            return
        reason = describe_os_error(trouble)
        if job.inbox not in self._errors:  # once, however many pictures it affects
            log.error("picture not archived, kept in the inbox", job=job.id, reason=reason)
        self._errors[job.inbox] = f"pictures cannot leave the inbox: {reason}"
        self._failures[job.inbox] += 1

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
        drop = siblings[0]
        if drop.picture_location != "inbox":  # another host was first
            return
        self._markers.check(inbox)
        if any(sibling.state == "done" for sibling in siblings):
            self._archive_success(inbox, drop)
        elif inside := self._move_out(inbox, drop, inbox.failed):
            self._write_reason(inbox, inside, siblings)
            self._store.moved(drop, "failed", str(inside))
            log.info("picture moved to failed", job=job.id, to=str(inbox.failed / inside))

    def _archive_success(self, inbox: Inbox, drop: Job) -> None:
        if inbox.on_success == "keep":
            self._store.moved(drop, "kept" if drop_files.is_in_inbox(inbox, drop) else "gone")
        elif inbox.on_success == "delete":
            self._store.moved(drop, "deleted" if drop_files.delete(inbox, drop) else "gone")
        elif inside := self._move_out(inbox, drop, inbox.archive):
            self._store.moved(drop, "archive", str(inside))
            log.info("picture archived", job=drop.id, to=str(inbox.archive / inside))

    def _move_out(self, inbox: Inbox, drop: Job, root: Path) -> PurePath | None:
        """Move the picture and its overrides below `root`; return None if the picture is gone."""
        inside = drop_files.move_out(
            inbox, drop, root, lambda path: self._store.moved(drop, "inbox", str(path))
        )
        if inside is None:
            self._store.moved(drop, "gone")
        return inside

    def _write_reason(self, inbox: Inbox, inside: PurePath, failed: Sequence[Job]) -> None:
        """Write the reason beside the picture; what refuses this file alone does not hold it up."""
        try:
            with open_beneath(inbox.failed, inside.parent, make=False) as folder:
                clips = {job.id: rejected_clip_of(job, folder) for job in failed}
                kept = {job: clip.name for job, clip in clips.items() if FileState.find(clip)}
                write_reason(folder / inside.name, failed, kept)
        except OSError as error:
            if find_folder_error(inbox, error, _ROLES) is not None:
                raise
            log.warning("reason not written", job=failed[0].id, reason=describe_os_error(error))


def _drop_of(job: Job) -> tuple[str, str, int]:
    return job.inbox, job.path, job.drop
