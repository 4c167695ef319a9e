"""Watcher: scan an inbox and offer each complete file to intake.

The StabilityTracker decides which files are complete. Files that arrived while the daemon was down
pass the same test. File events (inotify.py) only start the scan earlier.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from daemon.config.settings import Inbox
from daemon.fs.atomic import describe_os_error
from daemon.fs.fingerprint import FileState
from daemon.intake.scanner import InboxUnavailable, scan
from daemon.storage.health import StorageHealth
from daemon.storage.scope import find_folder_error
from daemon.storage.volumes import VolumeMarkers

_BATCH_FILES = 500
"""Files in one query to the queue."""

log = structlog.get_logger()


class StabilityTracker:
    """Finds the files that have not changed for the stability delay. Pure: time is a parameter."""

    def __init__(self, stability_delay: float) -> None:
        self._stability_delay = stability_delay
        self._known: dict[str, tuple[FileState, float]] = {}
        """The last state seen, and the time from which the file may be offered."""
        self._offered: set[str] = set()

    def observe(self, now: float, files: Mapping[str, FileState]) -> list[str]:
        """Return the paths that are complete and were not offered yet, oldest change first."""
        for path in [p for p in self._known if p not in files]:
            del self._known[path]
            self._offered.discard(path)
        for path, seen in files.items():
            if path not in self._known or self._known[path][0] != seen:
                self._known[path] = (seen, now + self._stability_delay)
                self._offered.discard(path)
        ready = [
            path
            for path, (_, due) in self._known.items()
            if due <= now and path not in self._offered
        ]
        self._offered.update(ready)
        return sorted(ready, key=lambda path: (self._known[path][0].mtime_ns, path))

    def offer_again(self, paths: Iterable[str], at: float) -> None:
        """Offer these paths again, not before the time `at`."""
        for path in paths:
            if path in self._known:
                self._known[path] = (self._known[path][0], at)
                self._offered.discard(path)

    def is_unchanged(self, path: str, seen: FileState) -> bool:
        """Return True if the last scan saw the file in this state."""
        return path in self._known and self._known[path][0] == seen

    def next_due(self) -> float | None:
        """Return the time at which the next file may be complete; None if no file waits."""
        waiting = (due for path, (_, due) in self._known.items() if path not in self._offered)
        return min(waiting, default=None)


@dataclass(frozen=True)
class RetryLater:
    """Offer the file again after `seconds`; None: when the rules change."""

    seconds: float | None


class DeferToSlowLane:
    """Handle the file in the slow lane, where it delays no other file."""


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
    """Receiver of complete files. Both methods raise OSError if a folder or the queue is away."""

    async def without_job(self, inbox: Inbox, files: Mapping[str, FileState]) -> list[str]:
        """Return the paths of the files without a job, in the same order."""

    async def handle(
        self, inbox: Inbox, path: str, seen: FileState, *, slow_lane: bool = False
    ) -> RetryLater | DeferToSlowLane | None:
        """Handle a file, or return when to offer it again; `slow_lane`: it may take long."""


class Watcher:
    """Scans one inbox until it is stopped, and passes each complete file to the handler."""

    def __init__(
        self,
        inbox: Inbox,
        interval: float,
        handler: FileHandler,
        health: StorageHealth,
        markers: VolumeMarkers,
    ) -> None:
        self.inbox = inbox
        self.wake = asyncio.Event()
        self.unavailable: str | None = None
        self.scan_seconds = 0.0
        self.unmatched: set[str] = set()
        self._interval = interval
        self._handler = handler
        self._health = health
        self._markers = markers
        self._waiting: dict[str, str] = {}
        """Reasons for which single files wait, by path; each is logged once."""
        self._tracker = StabilityTracker(inbox.stability_delay)
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
                files = await asyncio.to_thread(self._scan)
            except InboxUnavailable as error:
                self._set_unavailable(str(error))
            else:
                self._set_unavailable(None)
                if self.inbox.name not in self._health.blocked:
                    await self._offer(files, stopping)
            await self._wait(stopping)

    def rules_changed(self) -> None:
        """Offer the files again that no rule matched."""
        self._tracker.offer_again(self.unmatched, time.monotonic())
        self.unmatched.clear()
        self.wake.set()

    def _scan(self) -> dict[str, FileState]:
        try:
            self._markers.check(self.inbox, "path")
        except OSError as error:
            raise InboxUnavailable(describe_os_error(error)) from error
        start, busy = time.perf_counter(), time.thread_time()
        files = scan(self.inbox.path, self.inbox.recursive)
        self.scan_seconds, self._effort = time.perf_counter() - start, time.thread_time() - busy
        return files

    async def _offer(self, files: dict[str, FileState], stopping: asyncio.Event) -> None:
        self.unmatched &= files.keys()
        whole = self._tracker.observe(time.monotonic(), files)
        for start in range(0, len(whole), _BATCH_FILES):
            chunk = whole[start : start + _BATCH_FILES]
            try:
                new = await self._handler.without_job(
                    self.inbox, {path: files[path] for path in chunk}
                )
            except OSError as error:
                self._health.report_error(self.inbox, error)
                new = chunk
            for path in new:
                if stopping.is_set():
                    return
                await self._handle(path, files[path])

    async def _run_slow_lane(self) -> None:
        while True:
            path, seen = await self._slow.get()
            if self._tracker.is_unchanged(path, seen):
                await self._handle(path, seen, slow_lane=True)

    async def _handle(self, path: str, seen: FileState, *, slow_lane: bool = False) -> None:
        if self.inbox.name in self._health.blocked:
            self._tracker.offer_again([path], time.monotonic())
            return
        try:
            later = await self._handler.handle(self.inbox, path, seen, slow_lane=slow_lane)
            self._waiting.pop(path, None)
        except OSError as error:
            later = await self._on_error(path, error)
        if later is not None and slow_lane and not self._tracker.is_unchanged(path, seen):
            return
        match later:
            case DeferToSlowLane():
                self._slow.put_nowait((path, seen))
            case RetryLater(seconds=None):
                self.unmatched.add(path)
            case RetryLater(seconds=float(seconds)):
                self._tracker.offer_again([path], time.monotonic() + seconds)

    async def _on_error(self, path: str, error: OSError) -> RetryLater:
        """Block the inbox if the error affects its folders or the queue; else the file waits."""
        trouble = await asyncio.to_thread(find_folder_error, self.inbox, error)
        if trouble is not None:
            self._health.report_error(self.inbox, trouble)
            return RetryLater(0.0)
        reason = describe_os_error(error)
        if self._waiting.get(path) != reason:
            log.warning("picture waiting", inbox=self.inbox.name, path=path, reason=reason)
            self._waiting[path] = reason
        return RetryLater(float(self.inbox.unreadable_timeout))

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
