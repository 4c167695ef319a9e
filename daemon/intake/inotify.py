"""File notifications: inotify events that start the next scan earlier.

A network mount raises no event for a write on another host. There, and when the kernel is out of
watches, the inbox is found by polling only. The watcher's scan decides what is new.
"""

import asyncio
import warnings
from typing import Literal

import structlog
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify_move_event_grouper import InotifyMoveEventGrouper

from daemon.config.settings import Inbox
from daemon.fs.mounts import NETWORK, file_system
from daemon.intake.watcher import Watcher
from daemon.storage.folder_threads import FolderHangs, FolderThreads

Mode = Literal["inotify", "polling"]

_MOVE_PAIRING_SECONDS = 0.01
"""Time that a "moved from" event waits for its "moved to". All later events wait too, and each
picture that is archived raises one; watchdog's default is 0.5 s."""

log = structlog.get_logger()


class _Waker(FileSystemEventHandler):
    def __init__(self, loop: asyncio.AbstractEventLoop, wake: asyncio.Event) -> None:
        self._loop = loop
        self._wake = wake

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in ("created", "moved", "closed", "deleted", "modified"):
            self._loop.call_soon_threadsafe(self._wake.set)


class FileNotifier:
    """One observer thread for all inboxes; `modes`: how each inbox is watched."""

    def __init__(self) -> None:
        self.modes: dict[str, Mode] = {}
        InotifyMoveEventGrouper.delay = _MOVE_PAIRING_SECONDS
        self._observer: BaseObserver = Observer()

    async def start(self, watchers: list[Watcher], threads: FolderThreads) -> None:
        """Watch each inbox, by polling if inotify is not possible. Does not fail."""
        loop = asyncio.get_running_loop()
        # watchdog sees a new folder twice when many appear at once, and warns on stderr
        warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning)
        try:
            self._observer.start()
        except OSError as error:
            self._use_polling([w.inbox.name for w in watchers], f"no inotify: {error.strerror}")
            return
        for watcher in watchers:
            inbox = watcher.inbox
            try:
                waker = _Waker(loop, watcher.wake)
                if reason := await threads.run(inbox, self._watch, inbox, waker):
                    self._use_polling([inbox.name], reason)
                else:
                    self.modes[inbox.name] = "inotify"
            except FolderHangs as error:
                self._use_polling([inbox.name], str(error))

    def _watch(self, inbox: Inbox, waker: _Waker) -> str | None:
        """Watch the folder of an inbox; return the reason if inotify is not possible."""
        kind = file_system(inbox.path)
        if kind in NETWORK or kind.startswith("fuse"):
            return f"{inbox.path} is on {kind}"
        try:
            self._observer.schedule(waker, str(inbox.path), recursive=inbox.recursive)
        except OSError as error:
            return f"{error.strerror}; raise fs.inotify.max_user_watches for faster reactions"
        return None

    def stop(self) -> None:
        """Stop the observer thread and join it."""
        if self._observer.is_alive():
            self._observer.stop()
            self._observer.join()

    def _use_polling(self, inboxes: list[str], reason: str) -> None:
        for name in inboxes:
            self.modes[name] = "polling"
            log.warning("inotify disabled, polling only", inbox=name, reason=reason)
