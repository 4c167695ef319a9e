"""Patience: how long one listens to a child that says nothing.

Time in which we stood still ourselves does not count: under SIGSTOP, in a debugger, on a machine
that slept or was starved of its processors. The clock has moved on then, but the answer that came
meanwhile lies unread, and no child is to be called hung for that.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_TURNS = 8
"""A wait is cut into so many turns; one that lasted twice as long as it should is not counted."""


async def wait_excluding_stalls(seconds: float | None, receive: Callable[[], Awaitable[T]]) -> T:
    """What `listen` returns; it may be cancelled and called anew, and must lose nothing by that.

    Raises TimeoutError once it was waited for so many `seconds`; with None it waits for good.
    """
    if seconds is None:
        return await receive()
    loop = asyncio.get_running_loop()
    turn = seconds / _TURNS
    silent = 0
    while True:
        began = loop.time()
        try:
            return await asyncio.wait_for(receive(), turn)
        except TimeoutError:
            silent += loop.time() - began < 2 * turn
            if silent == _TURNS:
                raise
