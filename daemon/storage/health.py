"""Room: whether the folders can take what more work would put there, and whether they take it.

Looked at every two seconds, so that work stops before a disk is full, and where a share is away.
After an error on a folder nothing new begins there until a small file can be written again. What is
lacking stops its inbox alone; the state folder stops all.
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
from daemon.storage.marker import VolumeMarkers

STATE = ""
"""Stands for the state folder where else the name of an inbox stands."""

_MIN_FREE_INODES = 100
_PROBE_BYTES = bytes(2**20)
_MIN_DELAY_SECONDS = 2.0
_MAX_DELAY_SECONDS = 300.0

log = structlog.get_logger()


@dataclass
class _Breaker:
    """An error that nothing has disproved yet: a clip that gets into the outbox does."""

    reason: str
    delay: float
    until: float
    probing: bool = True
    """Until then; after a probe that went well `until` is the time of that."""


class StorageHealth:
    """`lacking`: why nothing new may begin, by inbox; read by watch.py and dispatch.py."""

    def __init__(
        self, settings: Settings, storage: VolumeMarkers, try_ledger: Callable[[], None]
    ) -> None:
        """`try_ledger` writes something to the ledger. Raises QueueUnavailable."""
        self.blocked: dict[str, str] = {}
        self._settings = settings
        self._storage = storage
        self._try_ledger = try_ledger
        self._breakers: dict[str, _Breaker] = {}
        self._mounted = {folder for _, folder in self._all() if os.path.ismount(folder)}

    def check(self) -> bool:
        """Look at all folders; whether room was found again somewhere. May block on a share."""
        before = self.blocked
        state = self._find_problem(STATE, {"state": self._settings.state})
        now = {}
        for inbox in self._settings.inbox:
            if (
                why := state
                or self._missing_volume(inbox)
                or self._find_problem(inbox.name, output_folders(inbox))
            ):
                now[inbox.name] = why
        self._set_blocked(before, now)
        return bool(before.keys() - now.keys())

    def report_error(self, inbox: Inbox | None, error: OSError) -> None:
        """Work for this inbox met an error that is not the job's; None: for all.

        Each error after a probe that went well waits longer, as long as it is the same trouble;
        what comes meanwhile is the same one.
        """
        key = STATE if inbox is None or isinstance(error, QueueUnavailable) else inbox.name
        last = self._breakers.get(key)
        if last is not None and last.probing:
            last.reason = describe_os_error(error)
        else:
            again = last is not None and not self._has_recovered(key, last)
            wait = min(_MAX_DELAY_SECONDS, 2 * last.delay) if last and again else _MIN_DELAY_SECONDS
            self._breakers[key] = _Breaker(describe_os_error(error), wait, time.monotonic() + wait)
        stopped = [key] if key else [each.name for each in self._settings.inbox]
        self._set_blocked(
            self.blocked, self.blocked | dict.fromkeys(stopped, describe_os_error(error))
        )

    def report_success(self, inbox: Inbox) -> None:
        """A clip of this inbox is published: what was doubted works."""
        self._breakers.pop(inbox.name, None)
        self._breakers.pop(STATE, None)

    def _has_recovered(self, key: str, last: _Breaker) -> bool:
        """Whether another error is the beginning of another trouble.

        The ledger is asked every few seconds, also where no clips are made: when it has answered
        for as long as was waited for it, it is well. Of a folder only a clip tells.
        """
        return key == STATE and time.monotonic() > last.until + last.delay

    def _find_problem(self, key: str, folders: dict[str, Path]) -> str | None:
        for role, folder in folders.items():
            if why := self._full(role, folder):
                return why
        doubt = self._breakers.get(key)
        if doubt is None or not doubt.probing:
            return None
        if time.monotonic() < doubt.until:
            return doubt.reason
        try:
            for folder in folders.values():
                write_probe(folder)
            if key == STATE:
                self._try_ledger()
        except OSError as error:
            doubt.reason = describe_os_error(error)
            return doubt.reason
        doubt.probing, doubt.until = False, time.monotonic()
        return None

    def _missing_volume(self, inbox: Inbox) -> str | None:
        try:
            self._storage.check(inbox)
        except OSError as error:
            return describe_os_error(error)
        return None

    def _full(self, role: str, folder: Path) -> str | None:
        try:
            space = os.statvfs(folder)
        except OSError as error:
            return f"{role} {folder}: {error.strerror}"
        if folder in self._mounted and not os.path.ismount(folder):
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

    def _set_blocked(self, before: dict[str, str], now: dict[str, str]) -> None:
        self.blocked = now
        for name in now.keys() - before.keys():
            log.error("intake paused", inbox=name, reason=now[name])
        for name in before.keys() - now.keys():
            log.info("intake resumed", inbox=name)

    def _all(self) -> Iterator[tuple[str, Path]]:
        yield "state", self._settings.state
        for inbox in self._settings.inbox:
            yield from output_folders(inbox).items()


def output_folders(inbox: Inbox) -> dict[str, Path]:
    """The folders of an inbox that work changes; not the inbox where the pictures stay in it."""
    found = {"outbox": inbox.outbox, "archive": inbox.archive, "failed": inbox.failed}
    return found if inbox.after == "keep" else {"inbox": inbox.path} | found


def write_probe(folder: Path) -> None:
    """Write a megabyte to a folder, durably, and remove it again. Raises OSError."""
    probe = folder / ".i2vd-probe"
    try:
        probe.unlink(missing_ok=True)  # in an inbox anybody may have put a link there
        with probe.open("xb") as file:
            file.write(_PROBE_BYTES)
            file.flush()
            os.fsync(file.fileno())
    finally:
        probe.unlink(missing_ok=True)
