"""Folder threads: every call on the folders of an inbox runs in threads of that inbox alone.

A call on a share that hangs may never return. Here it delays no other inbox, and neither the queue
nor http. Storage health looks at the folders in a thread of its own. What waits for folders that
hang is given up: it gets FolderHangs, and its call may still complete once the share answers, as a
call of another host would. The threads do not keep the process from ending.
"""

import asyncio
import contextlib
import contextvars
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, InvalidStateError
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from daemon.config.settings import Inbox

HANG_SECONDS = 15.0
"""Time without an answer after which folders hang. A disk that was asleep needs ten."""
_MAX_THREADS = 4
"""Calls of one inbox at the same time: a scan, a publication, an archival and one of the page."""

P = ParamSpec("P")
T = TypeVar("T")


class FolderHangs(OSError):
    """A folder of the inbox does not answer."""


class Look:
    """A call in a thread of its own that shows if the folders of an inbox answer."""

    def __init__(self, call: Callable[[], str | None]) -> None:
        self._started = time.monotonic()
        self._answer: Future[str | None] = Future()
        _start_thread("folder look", partial(_settle, self._answer, call))

    @property
    def is_back(self) -> bool:
        """True once the call has returned or raised."""
        return self._answer.done()

    @property
    def seconds(self) -> float:
        """Seconds since the call began."""
        return time.monotonic() - self._started

    async def wait(self, seconds: float) -> None:
        """Wait until the call is back, at most `seconds`."""
        waiting = asyncio.wrap_future(self._answer)
        waiting.add_done_callback(lambda it: it.cancelled() or it.exception())  # see `result`
        await asyncio.wait([waiting], timeout=seconds)

    def result(self) -> str | None:
        """Return what the call returned, or raise what it raised."""
        return self._answer.result()


class FolderThreads:
    """The threads of each inbox. Thread-safe; not to be used from within one of its own calls."""

    def __init__(self, inboxes: Sequence[Inbox]) -> None:
        self._inboxes = {inbox.name: _Threads(inbox.name) for inbox in inboxes}

    async def run(
        self, inbox: Inbox, call: Callable[P, T], *arguments: P.args, **named: P.kwargs
    ) -> T:
        """Call a function in a thread of the inbox. Raises FolderHangs and what it raises."""
        submitted = self._inboxes[inbox.name].submit(partial(call, *arguments, **named))
        return await asyncio.wrap_future(submitted)

    def call(self, inbox: Inbox, call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Do as `run`, and block until the function has returned or is given up."""
        return self._inboxes[inbox.name].submit(partial(call, *arguments, **named)).result()

    async def run_for_each(
        self, inboxes: Collection[Inbox], call: Callable[[Inbox], T]
    ) -> dict[str, T]:
        """Call a function for each inbox at once; return the results by name.

        Inboxes whose call takes HANG_SECONDS are left out, and given up until a look comes back.
        Raises what the calls raise.
        """
        calls = {inbox.name: asyncio.create_task(self.run(inbox, call, inbox)) for inbox in inboxes}
        if calls:
            await asyncio.wait(calls.values(), timeout=HANG_SECONDS)
        for inbox in inboxes:
            if not calls[inbox.name].done():
                self.give_up(inbox, no_answer("inbox", inbox.path))
        await asyncio.gather(*calls.values(), return_exceptions=True)
        return {
            name: task.result()
            for name, task in calls.items()
            if not isinstance(task.exception(), FolderHangs)
        }

    # --- whether the folders answer

    def hangs(self, inbox: Inbox) -> str | None:
        """Return the reason why calls of the inbox are refused; None if they are not."""
        return self._inboxes[inbox.name].refusal

    def give_up(self, inbox: Inbox, reason: str) -> None:
        """Raise FolderHangs in all that wait for the inbox, and refuse new calls."""
        self._inboxes[inbox.name].give_up(reason)

    def resume(self, inbox: Inbox) -> None:
        """Accept calls of the inbox again."""
        self._inboxes[inbox.name].refusal = None

    def close(self) -> None:
        """Give up all inboxes, so that nothing waits for a folder any more."""
        for threads in self._inboxes.values():
            threads.give_up("the daemon stops")


def no_answer(role: str, folder: Path) -> str:
    """Return the reason for a folder that hangs."""
    return f"{role} {folder}: does not answer; is the server of its share away?"


class _Threads:
    """The threads of one inbox, started as they are needed. They end when no call waits."""

    def __init__(self, name: str) -> None:
        self.refusal: str | None = None
        self._name = name
        self._lock = threading.Lock()
        self._running = 0
        self._queued: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._awaited: set[Future[Any]] = set()

    def submit(self, call: Callable[[], T]) -> "Future[T]":
        future: Future[T] = Future()
        in_context = partial(contextvars.copy_context().run, call)
        with self._lock:
            if self.refusal is not None:
                future.set_exception(FolderHangs(self.refusal))
                return future
            self._awaited.add(future)
            self._queued.append((future, in_context))
            is_new = self._running < _MAX_THREADS
            self._running += is_new
        future.add_done_callback(self._forget)
        if is_new:
            _start_thread(f"folders of {self._name}", self._work)
        return future

    def give_up(self, reason: str) -> None:
        with self._lock:
            self.refusal = reason
            self._queued.clear()
            awaited = [*self._awaited]
        for future in awaited:
            with contextlib.suppress(InvalidStateError):  # it came back in this moment
                future.set_exception(FolderHangs(reason))

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._queued:
                    self._running -= 1
                    return
                future, call = self._queued.popleft()
            if not future.done():
                _settle(future, call)

    def _forget(self, future: "Future[Any]") -> None:
        with self._lock:
            self._awaited.discard(future)


def _settle(future: "Future[Any]", call: Callable[[], Any]) -> None:
    """Call, and give the future the result; its caller may have given it up."""
    try:
        result = call()
    except BaseException as error:
        with contextlib.suppress(InvalidStateError):
            future.set_exception(error)
    else:
        with contextlib.suppress(InvalidStateError):
            future.set_result(result)


def _start_thread(name: str, work: Callable[[], None]) -> None:
    threading.Thread(target=work, name=name, daemon=True).start()
