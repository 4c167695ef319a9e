"""Watcher: scan an inbox and offer each complete file to intake.

The StabilityTracker decides which files are complete. Files that arrived while the daemon was down
pass the same test. File events (inotify.py) only start the scan earlier. Whatever goes wrong with
one file concerns that file alone: it is listed among the skipped files, and tried again.
"""

import asyncio
import contextlib
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from daemon.config.settings import Inbox
from daemon.fs.atomic import describe_os_error
from daemon.fs.fingerprint import FileState
from daemon.intake.empty_folders import EmptyFolders
from daemon.intake.scanner import InboxUnavailable, Scan, scan
from daemon.intake.skipped import Skip, SkippedFiles
from daemon.intake.stability import StabilityTracker
from daemon.jobs.database import QueueUnavailable
from daemon.storage.folder_threads import FolderHangs, FolderThreads
from daemon.storage.health import StorageHealth
from daemon.storage.scope import find_folder_error_in
from daemon.storage.volumes import VolumeMarkers, VolumeMissing
from rules.read_error import describe

_BATCH_FILES = 500
"""Files in one query to the queue."""

_MIN_RETRY_SECONDS = 2.0
_MAX_RETRY_SECONDS = 300.0
"""Delay before the first and the later looks at a file that could not be handled."""

log = structlog.get_logger()


@dataclass(frozen=True)
class RetryLater:
    """Offer the file again after `seconds`; None: when the rules change. `skip`: why."""

    seconds: float | None
    skip: Skip | None = None


@dataclass(frozen=True)
class RetryWithBackoff:
    """Offer the file again after ever longer delays: the place, not the file, is at fault."""

    skip: Skip


class DeferToSlowLane:
    """Handle the file in the slow lane, where it delays no other file."""


Answer = RetryLater | RetryWithBackoff | DeferToSlowLane | None
"""What to do with a file; None: it has its jobs, or is recorded as failed."""


def scan_backoff(effort: float, interval: float, until_due: float | None) -> tuple[float, float]:
    """Return the seconds to wait after a scan: at least, and at most if no event comes.

    `effort` is the scan's CPU time in seconds: most of a second for a hundred thousand files. At
    most a fifth of a core is spent on scanning, a twentieth when no events come.
    """
    least, most = 4 * effort, max(interval, 19 * effort)
    if until_due is not None:
        most = min(most, max(0.01, until_due))
    return least, max(least, most)


class FileHandler(Protocol):
    """Receiver of complete files. Raises QueueUnavailable or VolumeMissing if one is away."""

    async def without_job(self, inbox: Inbox, files: Mapping[str, FileState]) -> list[str]:
        """Return the paths of the files without a job, in the same order."""

    async def handle(
        self, inbox: Inbox, path: str, seen: FileState, *, slow_lane: bool = False
    ) -> Answer:
        """Handle a file, or return when to offer it again; `slow_lane`: it may take long."""

    async def overrides_used(self, inbox: Inbox, overrides: Mapping[str, str]) -> dict[str, bool]:
        """Return if each override was used; without those whose picture has no job yet.

        `overrides` has the picture of each override.
        """

    def named_folders(self, inbox: Inbox) -> Collection[str]:
        """Return the folders that the rules of an inbox name."""


class Watcher:
    """Scans one inbox until it is stopped, and passes each complete file to the handler."""

    def __init__(
        self,
        inbox: Inbox,
        interval: float,
        handler: FileHandler,
        health: StorageHealth,
        markers: VolumeMarkers,
        threads: FolderThreads,
    ) -> None:
        self.inbox = inbox
        self.wake = asyncio.Event()
        self.unavailable: str | None = None
        self.scan_seconds = 0.0
        self.unmatched: set[str] = set()
        self.skipped = SkippedFiles(inbox.name, inbox.path)
        self._interval = interval
        self._handler = handler
        self._health = health
        self._markers = markers
        self._threads = threads
        self._tracker = StabilityTracker(inbox.stability_delay)
        self._empty_folders = EmptyFolders(inbox.name, inbox.path)
        self._waiting: dict[str, Skip] = {}
        """Pictures that were offered and have no job, with the reason."""
        self._overrides: dict[str, tuple[FileState, bool]] = {}
        """The state of its picture for which each override was checked, and if it was used."""
        self._effort = 0.0
        """CPU time of the last scan in seconds."""
        self._slow: asyncio.Queue[tuple[str, FileState]] = asyncio.Queue()

    async def run(self, stopping: asyncio.Event) -> None:
        """Scan, offer and wait in a loop; a missing inbox is waited for, not taken for empty."""
        async with asyncio.TaskGroup() as tasks:
            slow = tasks.create_task(self._run_slow_lane())
            await self._scan_and_offer(stopping)
            slow.cancel()

    async def _scan_and_offer(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            self.wake.clear()
            try:
                found = await self._threads.run(self.inbox, self._scan)
                self._set_unavailable(None)
                if self.inbox.name not in self._health.blocked:
                    await self._offer(found.pictures, stopping)
                    await self._check_overrides(found)
                await self._threads.run(self.inbox, self._tidy_up, found)
            except (InboxUnavailable, FolderHangs) as error:
                self._set_unavailable(str(error))
            await self._wait(stopping)

    def rules_changed(self) -> None:
        """Offer the files again that no rule matched."""
        self._tracker.offer_again(self.unmatched, time.monotonic())
        self.unmatched.clear()
        self.wake.set()

    def _scan(self) -> Scan:
        try:
            self._markers.check(self.inbox, "path")
        except OSError as error:
            raise InboxUnavailable(describe_os_error(error)) from error
        start, busy = time.perf_counter(), time.thread_time()
        found = scan(self.inbox.path, self.inbox.recursive)
        self.scan_seconds, self._effort = time.perf_counter() - start, time.thread_time() - busy
        return found

    def _tidy_up(self, found: Scan) -> None:
        """List what is skipped, and remove the folders that archived pictures left empty."""
        waiting = {path: s for path, s in self._waiting.items() if path in found.pictures}
        self.skipped.update(found.skipped | waiting | self._unused_overrides(found))
        if self.inbox.on_success != "keep":
            named = self._handler.named_folders(self.inbox)
            self._empty_folders.update(found, named, time.monotonic())

    # --- offering files

    async def _offer(self, files: dict[str, FileState], stopping: asyncio.Event) -> None:
        self.unmatched &= files.keys()
        self._waiting = {path: skip for path, skip in self._waiting.items() if path in files}
        whole = self._tracker.observe(time.monotonic(), files)
        for start in range(0, len(whole), _BATCH_FILES):
            chunk = {path: files[path] for path in whole[start : start + _BATCH_FILES]}
            for path in await self._without_job(chunk):
                if stopping.is_set():
                    return
                await self._handle(path, files[path])

    async def _without_job(self, files: dict[str, FileState]) -> list[str]:
        """Return the paths without a job; not those about which the queue cannot be asked."""
        try:
            return await self._handler.without_job(self.inbox, files)
        except (QueueUnavailable, VolumeMissing) as error:
            self._health.report_error(self.inbox, error)
            return list(files)
        except Exception as error:
            if len(files) > 1:
                found = [await self._without_job({path: seen}) for path, seen in files.items()]
                return [path for paths in found for path in paths]
            (path,) = files
            self._follow(path, await self._answer_fault(path, error))
            return []

    async def _run_slow_lane(self) -> None:
        while True:
            path, seen = await self._slow.get()
            if self._tracker.is_unchanged(path, seen):
                await self._handle(path, seen, slow_lane=True)

    async def _handle(self, path: str, seen: FileState, *, slow_lane: bool = False) -> None:
        if self.inbox.name in self._health.blocked:
            self._tracker.offer_again([path], time.monotonic())
            return
        answer: Answer
        try:
            answer = await self._handler.handle(self.inbox, path, seen, slow_lane=slow_lane)
        except Exception as error:
            answer = await self._answer_fault(path, error)
        if slow_lane and not self._tracker.is_unchanged(path, seen):
            return
        if isinstance(answer, DeferToSlowLane):
            self._slow.put_nowait((path, seen))
        else:
            self._follow(path, answer)

    def _follow(self, path: str, answer: RetryLater | RetryWithBackoff | None) -> None:
        """Note why a file has no job, and offer it again."""
        now = time.monotonic()
        if answer is None or answer.skip is None:
            self._waiting.pop(path, None)
        else:
            self._waiting[path] = answer.skip
        match answer:
            case None:
                self.unmatched.discard(path)
                self._tracker.settle(path)
            case RetryWithBackoff():
                self._tracker.offer_with_backoff(path, now, _MIN_RETRY_SECONDS, _MAX_RETRY_SECONDS)
            case RetryLater(seconds=None):
                self.unmatched.add(path)
            case RetryLater(seconds=float(seconds)):
                self._tracker.offer_again([path], now + seconds)

    async def _answer_fault(self, path: str, error: Exception) -> RetryLater | RetryWithBackoff:
        """Block the inbox if the error affects its folders or the queue; else the file waits."""
        if isinstance(error, OSError):
            trouble = await find_folder_error_in(self._threads, self.inbox, error)
            if trouble is not None:
                self._health.report_error(self.inbox, trouble)
                return RetryLater(0.0)
            # its override may be what cannot be read
            named = error.filename if isinstance(error.filename, str) else path
            file = self.inbox.path / named
            reason = await asyncio.to_thread(describe, error, file)
            return RetryWithBackoff(Skip("unreadable", f"{file} {reason}"))
        reason = f"i2vd failed on it: {type(error).__name__}: {error}"[:500]
        answer = RetryWithBackoff(Skip("internal_error", reason))
        if self._waiting.get(path) != answer.skip:
            log.error("file not handled", inbox=self.inbox.name, path=path, exc_info=error)
        return answer

    # --- overrides that are not used

    async def _check_overrides(self, found: Scan) -> None:
        """Ask, once for each state of a picture, if an override beside it was used."""
        checked = self._overrides
        self._overrides = {path: checked[path] for path in found.overrides if path in checked}
        changed = [
            (override, picture)
            for override, picture in found.overrides.items()
            if self._overrides.get(override, (None,))[0] != found.pictures[picture]
            and self._tracker.is_settled(picture)
        ]
        for start in range(0, len(changed), _BATCH_FILES):
            chunk = dict(changed[start : start + _BATCH_FILES])
            try:
                used = await self._handler.overrides_used(self.inbox, chunk)
            except QueueUnavailable as error:
                self._health.report_error(self.inbox, error)
                return
            for override, is_used in used.items():
                self._overrides[override] = (found.pictures[chunk[override]], is_used)

    def _unused_overrides(self, found: Scan) -> dict[str, Skip]:
        return {
            override: Skip(
                "override_not_applied",
                f'was not applied, because "{found.overrides[override]}" was taken without it',
            )
            for override, (_, is_used) in self._overrides.items()
            if not is_used and override in found.overrides
        }

    async def _wait(self, stopping: asyncio.Event) -> None:
        due = self._tracker.next_due()
        until_due = None if due is None else due - time.monotonic()
        least, most = scan_backoff(self._effort, self._interval, until_due)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(least):
                await stopping.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(most - least):
                await self.wake.wait()

    def _set_unavailable(self, reason: str | None) -> None:
        if reason and not self.unavailable:
            log.error("inbox lost, waiting for it", inbox=self.inbox.name, reason=reason)
        elif self.unavailable and not reason:
            log.info("inbox restored", inbox=self.inbox.name)
        self.unavailable = reason
