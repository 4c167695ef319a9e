"""The hint: file events that wake a scan sooner, where they can be trusted to come.

A write on another host raises no event on a network mount; there, and where the kernel has no more
watches to give, the scan alone goes on.
"""

import asyncio
import warnings
from typing import Literal

import structlog
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify_move_event_grouper import InotifyMoveEventGrouper

from daemon.fs.mounts import NETWORK, file_system
from daemon.intake.watcher import Watcher

Mode = Literal["inotify", "polling"]

_PAIRING = 0.01
"""Seconds for which a file's leaving waits for the event that tells where it went. All events
behind it wait too, and each picture that goes into the archive leaves: watchdog takes 0.5 s."""

log = structlog.get_logger()


class _Waker(FileSystemEventHandler):
    def __init__(self, loop: asyncio.AbstractEventLoop, wake: asyncio.Event) -> None:
        self._loop = loop
        self._wake = wake

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in ("created", "moved", "closed", "deleted", "modified"):
            self._loop.call_soon_threadsafe(self._wake.set)


class FileNotifier:
    """One observer thread for all inboxes; `modes` says how each inbox is watched."""

    def __init__(self) -> None:
        self.modes: dict[str, Mode] = {}
        InotifyMoveEventGrouper.delay = _PAIRING
        self._observer: BaseObserver = Observer()

    def start(self, watchers: list[Watcher]) -> None:
        """Watch what can be watched; never fails."""
        loop = asyncio.get_running_loop()
        # watchdog meets a new folder twice when many come at once, and tells that on stderr
        warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning)
        try:
            self._observer.start()
        except OSError as error:
            self._use_polling([w.inbox.name for w in watchers], f"no inotify: {error.strerror}")
            return
        for watcher in watchers:
            inbox = watcher.inbox
            kind = file_system(inbox.path)
            if kind in NETWORK or kind.startswith("fuse"):
                self._use_polling([inbox.name], f"{inbox.path} is on {kind}")
                continue
            try:
                self._observer.schedule(
                    _Waker(loop, watcher.wake), str(inbox.path), recursive=inbox.recursive
                )
                self.modes[inbox.name] = "inotify"
            except OSError as error:
                self._use_polling(
                    [inbox.name],
                    f"{error.strerror}; raise fs.inotify.max_user_watches for faster reactions",
                )

    def stop(self) -> None:
        """End the thread."""
        if self._observer.is_alive():
            self._observer.stop()
            self._observer.join()

    def _use_polling(self, inboxes: list[str], why: str) -> None:
        for name in inboxes:
            self.modes[name] = "polling"
            log.warning("watching by scan alone", inbox=name, why=why)
