"""Storage health: can the folders accept more output?

Checked every two seconds. An inbox is blocked while one of its folders is below the low-water mark
(`min_free`), out of inodes, read-only or unmounted. A failed write opens a circuit breaker: the
inbox stays blocked, with exponential backoff, until a test write succeeds. The state folder is
shared, so a problem there blocks every inbox. Each inbox is looked at by itself: one whose look
does not come back is blocked, and its calls are given up (folder_threads.py).
"""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from daemon.config.settings import Inbox, Settings
from daemon.fs.atomic import describe_os_error
from daemon.jobs.database import QueueUnavailable
from daemon.storage.folder_threads import (
    HANG_SECONDS,
    FolderHangs,
    FolderThreads,
    Look,
    no_answer,
)
from daemon.storage.folders import ROLES, folder_of
from daemon.storage.scope import output_folders, write_test
from daemon.storage.volumes import ROLES as MARKED_ROLES
from daemon.storage.volumes import VolumeMarkers
from daemon.telemetry.metrics import free_bytes

STATE = ""
"""Key of the state folder in mappings whose other keys are names of inboxes."""

_LOOK_SECONDS = 1.0
"""Time that a check waits for the looks; one that takes longer is asked at the next check."""
_MIN_FREE_INODES = 100
_MIN_DELAY_SECONDS = 2.0
_MAX_DELAY_SECONDS = 300.0

log = structlog.get_logger()


@dataclass
class _Breaker:
    """An I/O error; closed by a test write, removed by a published clip."""

    reason: str
    delay: float
    retry_at: float
    """Monotonic time of the next test write."""
    recovered_at: float | None = None
    """Monotonic time of the test write that succeeded; None while the breaker is open."""


class StorageHealth:
    """`blocked`: the reason by inbox; read by the watcher and the dispatcher."""

    def __init__(
        self,
        settings: Settings,
        markers: VolumeMarkers,
        try_write: Callable[[], None],
        threads: FolderThreads,
    ) -> None:
        """`try_write` writes something to the queue. Raises QueueUnavailable."""
        self.blocked: dict[str, str] = {}
        self.free: dict[tuple[str, str], float] = {}
        """Free bytes at the last look, by inbox and role; the state folder's by STATE, "state"."""
        self._settings = settings
        self._markers = markers
        self._try_write = try_write
        self._threads = threads
        self._breakers: dict[str, _Breaker] = {}
        self._is_mount_point: dict[Path, bool] = {}
        """If each folder was a mount point at the first look."""
        self._looks: dict[str, Look] = {}
        """The looks whose answer was not taken yet, by inbox."""
        self._looking_at: dict[str, tuple[str, Path]] = {}
        """Role and path of the folder at which the look of each inbox is, or was last."""

    async def check(self, patience: float = _LOOK_SECONDS) -> bool:
        """Check all folders; return True if an inbox was unblocked.

        Waits for the looks at the inboxes, at most `patience` seconds. Without an answer, an inbox
        stays as it was until its look has taken HANG_SECONDS.
        """
        before = self.blocked
        state_problem = await asyncio.to_thread(self._find_state_problem)
        inboxes = self._settings.inbox
        problems = await asyncio.gather(*(self._look(inbox, patience) for inbox in inboxes))
        blocked = {
            inbox.name: reason
            for inbox, problem in zip(inboxes, problems, strict=True)
            if (reason := state_problem or problem)
        }
        self._set_blocked(before, blocked)
        return bool(before.keys() - blocked.keys())

    async def _look(self, inbox: Inbox, patience: float) -> str | None:
        """Return why an inbox is blocked; give up its calls while its folders hang."""
        name, hangs = inbox.name, self._threads.hangs(inbox)
        look = self._looks.get(name)
        if look is None:
            look = self._looks[name] = Look(partial(self._find_inbox_problem, inbox))
        if look.seconds < HANG_SECONDS:
            await look.wait(patience if hangs is None else _LOOK_SECONDS)
        if look.is_back:
            self._looks.pop(name, None)
            self._threads.resume(inbox)
            return look.result()
        if hangs is None and look.seconds >= HANG_SECONDS:
            hangs = no_answer(*self._looking_at.get(name, ("inbox", inbox.path)))
            self._threads.give_up(inbox, hangs)
        return hangs or self.blocked.get(name)

    def report_error(self, inbox: Inbox | None, error: OSError) -> None:
        """Block new work after an I/O error that affects all jobs; scope.py finds out which do.

        `inbox` is None if every inbox is affected. Each error that follows a successful test write
        doubles the delay before the next one; errors while the breaker is open do not count. What
        hangs needs no test write: the look shows when it answers.
        """
        if inbox is not None and isinstance(error, FolderHangs):
            self._set_blocked(self.blocked, self.blocked | {inbox.name: str(error)})
            return
        key = STATE if inbox is None or isinstance(error, QueueUnavailable) else inbox.name
        reason = describe_os_error(error)
        breaker = self._breakers.get(key)
        if breaker is not None and breaker.recovered_at is None:
            breaker.reason = reason
        else:
            delay = _MIN_DELAY_SECONDS
            if breaker is not None and not self._is_unrelated(key, breaker):
                delay = min(2 * breaker.delay, _MAX_DELAY_SECONDS)
            self._breakers[key] = _Breaker(reason, delay, retry_at=time.monotonic() + delay)
        affected = [key] if key else [each.name for each in self._settings.inbox]
        self._set_blocked(self.blocked, self.blocked | dict.fromkeys(affected, reason))

    def report_success(self, inbox: Inbox) -> None:
        """Remove the breakers of this inbox and of the state folder: a clip was published."""
        self._breakers.pop(inbox.name, None)
        self._breakers.pop(STATE, None)

    def _is_unrelated(self, key: str, breaker: _Breaker) -> bool:
        """Return True if the next error begins a new problem, with the shortest delay.

        The queue is used every few seconds, also where no clips are generated. It counts as
        healthy after working for as long as the delay was. A folder is proved by a clip only.
        """
        if key != STATE or breaker.recovered_at is None:
            return False
        return time.monotonic() > breaker.recovered_at + breaker.delay

    def _find_state_problem(self) -> str | None:
        state = self._settings.state
        self._measure(STATE, "state", state)
        return self._find_problem(STATE, {"state": state})

    def _find_inbox_problem(self, inbox: Inbox) -> str | None:
        """Look at each folder of an inbox; may block for ever on a dead share."""
        problem = None
        for role in ROLES:
            folder = folder_of(inbox, role)
            self._looking_at[inbox.name] = "inbox" if role == "path" else role, folder
            self._measure(inbox.name, role, folder)
            if role in MARKED_ROLES:
                problem = problem or self._missing_volume(inbox, role)
        return problem or self._find_problem(inbox.name, output_folders(inbox))

    def _measure(self, key: str, role: str, folder: Path) -> None:
        free = free_bytes(folder)
        if free is None:
            self.free.pop((key, role), None)
        else:
            self.free[key, role] = free

    def _find_problem(self, key: str, folders: dict[str, Path]) -> str | None:
        for role, folder in folders.items():
            self._looking_at[key] = role, folder
            if reason := self._find_shortage(role, folder):
                return reason
        breaker = self._breakers.get(key)
        if breaker is None or breaker.recovered_at is not None:
            return None
        if time.monotonic() < breaker.retry_at:
            return breaker.reason
        try:
            for role, folder in folders.items():
                self._looking_at[key] = role, folder
                write_test(role, folder)
            if key == STATE:
                self._try_write()
        except OSError as error:
            breaker.reason = describe_os_error(error)
            return breaker.reason
        breaker.recovered_at = time.monotonic()
        return None

    def _missing_volume(self, inbox: Inbox, role: str) -> str | None:
        try:
            self._markers.check(inbox, role)
        except OSError as error:
            return describe_os_error(error)
        return None

    def _find_shortage(self, role: str, folder: Path) -> str | None:
        try:
            space = os.statvfs(folder)
        except OSError as error:
            return f"{role} {folder}: {error.strerror}"
        is_mount_point = os.path.ismount(folder)
        if self._is_mount_point.setdefault(folder, is_mount_point) and not is_mount_point:
            return f"{role} {folder}: its mount is gone"
        if space.f_flag & os.ST_RDONLY:
            return f"{role} {folder}: the file system is read-only"
        free = space.f_bavail * space.f_frsize
        if free < self._settings.min_free:
            least = self._settings.min_free.human_readable(decimal=True)
            return f"{role} {folder}: {free / 1e6:.1f} MB free, min_free is {least}; make room"
        if space.f_files and space.f_favail < _MIN_FREE_INODES:
            return f"{role} {folder}: no room for more files (inodes), remove some"
        return None

    def _set_blocked(self, before: dict[str, str], blocked: dict[str, str]) -> None:
        self.blocked = blocked
        for name in blocked.keys() - before.keys():
            log.error("intake paused", inbox=name, reason=blocked[name])
        for name in before.keys() - blocked.keys():
            log.info("intake resumed", inbox=name)
