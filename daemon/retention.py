"""Retention: how long the queue remembers finished jobs (`queue.keep_days`, `queue.keep_jobs`).

Jobs are removed some at a time, with pauses, so that a claim waits for milliseconds. A picture that
is kept in its inbox is remembered as long as it is there, and a job until each webhook of this host
has reported it.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable

import structlog

from daemon.config.settings import Inbox, Settings
from daemon.jobs.database import Database, QueueUnavailable
from daemon.jobs.pruning import FinishedJob, Pruning
from daemon.storage.folder_threads import FolderHangs, FolderThreads
from daemon.storage.volumes import VolumeMarkers

_INTERVAL_SECONDS = 3600.0
"""Between the end of one pass and the next one."""
_MIN_KEPT_SECONDS = 7 * 86400.0
"""No job is removed sooner: an idempotency key is remembered for as long, and another host may
still hold the file of a drop that is done."""
_STEP_JOBS = 50
_STEP_PAGES = 256
_MIN_PAUSE_SECONDS = 0.1
_PAUSE_RATIO = 4.0
"""Pause after a step, as a multiple of its duration."""

log = structlog.get_logger()


class Retention:
    """Prunes the queue. Of several hosts one does it at a time."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        markers: VolumeMarkers,
        threads: FolderThreads,
        delivered: Callable[[], int | None] = lambda: None,
    ) -> None:
        """Create it. `delivered` returns the last event that every webhook has reported."""
        self._settings = settings
        self._database = database
        self._markers = markers
        self._threads = threads
        self._delivered = delivered
        self._pruning = Pruning(database)

    @property
    def is_limited(self) -> bool:
        """True if the settings limit the history."""
        queue = self._settings.queue
        return queue.keep_days is not None or queue.keep_jobs is not None

    async def run(self) -> None:
        """Prune once an hour, until cancelled. Without a limit, return at once."""
        while self.is_limited:
            try:
                await self.prune()
            except QueueUnavailable as error:
                log.warning("pruning paused, queue unavailable", reason=str(error))
            await asyncio.sleep(_INTERVAL_SECONDS)

    async def prune(self) -> int:
        """Remove what is over the limits; return the number of jobs. Raises QueueUnavailable.

        1. Go through all jobs, oldest first, and collect those that may be removed.
        2. Remove them some at a time, each time in a transaction of its own.
        3. Return the free pages of an SQLite file to the file system.
        """
        removed = after = 0
        now = await asyncio.to_thread(self._pruning.now)
        oldest, expired, surplus = now - _MIN_KEPT_SECONDS, self._expiry(now), await self._surplus()
        while batch := await asyncio.to_thread(self._pruning.batch, after):
            due = [job for job in batch.jobs if job.finished < oldest]
            due = [j for n, j in enumerate(due) if j.finished < expired or n < surplus - removed]
            due = await self._without_kept(due)
            for start in range(0, len(due), _STEP_JOBS):
                step = [job.id for job in due[start : start + _STEP_JOBS]]
                removed += await _take_step(self._remove, step)
            if batch.created > (oldest if surplus > removed else min(oldest, expired)):
                break
            after = batch.last
        while await _take_step(self._database.shrink, _STEP_PAGES):
            pass
        if removed:
            log.info("finished jobs pruned", jobs=removed)
        return removed

    def _expiry(self, now: float) -> float:
        days = self._settings.queue.keep_days
        return -math.inf if days is None else now - days * 86400

    async def _surplus(self) -> int:
        limit = self._settings.queue.keep_jobs
        return 0 if limit is None else await asyncio.to_thread(self._pruning.finished) - limit

    def _remove(self, step: list[int]) -> int:
        with self._database.advisory_lock("pruning") as acquired:
            return self._pruning.remove(step, self._delivered()) if acquired else 0

    async def _without_kept(self, due: list[FinishedJob]) -> list[FinishedJob]:
        """Leave out the jobs whose picture may still be in its inbox. Asks the file system."""
        kept = [job for job in due if job.picture_location == "kept"]
        left: set[int] = set()
        for inbox in self._settings.inbox:
            own = [job for job in kept if job.inbox == inbox.name]
            if own:
                with contextlib.suppress(FolderHangs):
                    left |= await self._threads.run(inbox, self._find_left, inbox, own)
        return [job for job in due if job.picture_location != "kept" or job.id in left]

    def _find_left(self, inbox: Inbox, kept: list[FinishedJob]) -> set[int]:
        return {job.id for job in kept if self._has_left(inbox, job)}

    def _has_left(self, inbox: Inbox, job: FinishedJob) -> bool:
        """Return True if a picture that was kept is no longer in its inbox, which is there."""
        try:
            self._markers.check(inbox, "path")
            try:
                (inbox.path / job.path).lstat()
            except (FileNotFoundError, NotADirectoryError):
                self._markers.check(inbox, "path")  # its share was there all the time
                return True
        except OSError:
            return False
        return False


async def _take_step(call: Callable[..., int], argument: object) -> int:
    """Call a function in a thread, then leave the queue to others for a while."""
    started = time.monotonic()
    result = await asyncio.to_thread(call, argument)
    await asyncio.sleep(max(_MIN_PAUSE_SECONDS, _PAUSE_RATIO * (time.monotonic() - started)))
    return result
