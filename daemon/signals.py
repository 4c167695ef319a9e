"""Signals to `i2vd run`, from the first moment of the process to its last.

SIGTERM and SIGINT stop, SIGHUP reloads the rules. Until the event loop listens they are only
counted: a reload needs nothing then, because the rules are not yet loaded, and a stop is made up
for. A terminal that closes sends SIGHUP too, so it does not stop the daemon.
"""

import signal
import time
from collections.abc import Callable
from types import FrameType

_STOPS = (signal.SIGTERM, signal.SIGINT)
_POLL_SECONDS = 0.05


class Signals:
    """The process's signal handlers; `SIGNALS` is the only instance."""

    def __init__(self) -> None:
        self._stops = 0
        self._forward: Callable[[int], None] | None = None

    def install(self) -> None:
        """Handle the signals from now on. Must be called in the main thread."""
        for number in (*_STOPS, signal.SIGHUP):
            signal.signal(number, self._receive)

    def wait_for_stop(self, seconds: float) -> bool:
        """Wait for a stop; return True as soon as there was one, also before the call.

        For use before the event loop runs.
        """
        end = time.monotonic() + seconds
        while not self._stops and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
        return self._stops > 0

    def listen(self, stop: Callable[[], object], reload: Callable[[], object]) -> None:
        """Call `stop` and `reload` in the running event loop, also for the stops until now."""
        import asyncio  # takes a while, and the handlers are installed before

        loop = asyncio.get_running_loop()

        def forward(number: int) -> None:
            loop.call_soon_threadsafe(stop if number in _STOPS else reload)

        self._forward = forward
        for _ in range(self._stops):
            loop.call_soon(stop)

    def ignore(self) -> None:
        """Only count signals again, because the event loop ends."""
        self._forward = None

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self._stops += number in _STOPS
        if self._forward is not None:
            self._forward(number)


SIGNALS = Signals()
