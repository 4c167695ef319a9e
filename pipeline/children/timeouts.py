"""Timeouts for messages of a child, not counting the parent's own stalls.

The parent stalls under SIGSTOP, in a debugger, or on a machine that sleeps or has no CPU time. The
clock has moved then, but an answer may be waiting unread, so the child must not count as hung.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_SLICES = 8
"""Slices of a wait; a slice that took twice its time or more is not counted."""


async def wait_excluding_stalls(seconds: float | None, receive: Callable[[], Awaitable[T]]) -> T:
    """Await `receive()` with a timeout. `receive` must be safe to cancel and call again.

    Raises TimeoutError after `seconds`; None waits without limit.
    """
    if seconds is None:
        return await receive()
    loop = asyncio.get_running_loop()
    slice_seconds = seconds / _SLICES
    counted = 0
    while True:
        started = loop.time()
        try:
            async with asyncio.timeout(slice_seconds):
                return await receive()
        except TimeoutError:
            counted += loop.time() - started < 2 * slice_seconds
            if counted == _SLICES:
                raise
