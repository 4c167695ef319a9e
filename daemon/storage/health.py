"""Storage health: can the folders accept more output?

Checked every two seconds. An inbox is blocked while one of its folders is below the low-water mark
(`min_free`), out of inodes, read-only or unmounted. A failed write opens a circuit breaker: the
inbox stays blocked, with exponential backoff, until a test write succeeds. The state folder is
shared, so a problem there blocks every inbox.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from daemon.config.settings import Inbox, Settings
from daemon.fs.atomic import describe_os_error
from daemon.jobs.database import QueueUnavailable
from daemon.storage.scope import output_folders, write_test
from daemon.storage.volumes import VolumeMarkers

STATE = ""
"""Key of the state folder in mappings whose other keys are names of inboxes."""

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
        self, settings: Settings, markers: VolumeMarkers, try_write: Callable[[], None]
    ) -> None:
        """`try_write` writes something to the queue. Raises QueueUnavailable."""
        self.blocked: dict[str, str] = {}
        self._settings = settings
        self._markers = markers
        self._try_write = try_write
        self._breakers: dict[str, _Breaker] = {}
        self._mount_points = {folder for _, folder in self._all() if os.path.ismount(folder)}

    def check(self) -> bool:
        """Check all folders; return True if an inbox was unblocked. May block on a dead share."""
        before = self.blocked
        state_problem = self._find_problem(STATE, {"state": self._settings.state})
        blocked = {}
        for inbox in self._settings.inbox:
            reason = (
                state_problem
                or self._missing_volume(inbox)
                or self._find_problem(inbox.name, output_folders(inbox))
            )
            if reason:
                blocked[inbox.name] = reason
        self._set_blocked(before, blocked)
        return bool(before.keys() - blocked.keys())

    def report_error(self, inbox: Inbox | None, error: OSError) -> None:
        """Block new work after an I/O error that affects all jobs; scope.py finds out which do.

        `inbox` is None if every inbox is affected. Each error that follows a successful test write
        doubles the delay before the next one; errors while the breaker is open do not count.
        """
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

    def _find_problem(self, key: str, folders: dict[str, Path]) -> str | None:
        for role, folder in folders.items():
            if reason := self._find_shortage(role, folder):
                return reason
        breaker = self._breakers.get(key)
        if breaker is None or breaker.recovered_at is not None:
            return None
        if time.monotonic() < breaker.retry_at:
            return breaker.reason
        try:
            for role, folder in folders.items():
                write_test(role, folder)
            if key == STATE:
                self._try_write()
        except OSError as error:
            breaker.reason = describe_os_error(error)
            return breaker.reason
        breaker.recovered_at = time.monotonic()
        return None

    def _missing_volume(self, inbox: Inbox) -> str | None:
        try:
            self._markers.check(inbox)
        except OSError as error:
            return describe_os_error(error)
        return None

    def _find_shortage(self, role: str, folder: Path) -> str | None:
        try:
            space = os.statvfs(folder)
        except OSError as error:
            return f"{role} {folder}: {error.strerror}"
        if folder in self._mount_points and not os.path.ismount(folder):
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

    def _all(self) -> Iterator[tuple[str, Path]]:
        yield "state", self._settings.state
        for inbox in self._settings.inbox:
            yield from output_folders(inbox).items()
