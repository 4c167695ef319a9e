"""Streams of server-sent events: how many are open, and how they end with the daemon."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import HTTPException
from fastapi.sse import ServerSentEvent

_INTERVAL_SECONDS = 1.0
"""Between two looks for something new."""
_MAX_STREAMS = 32

Look = Callable[[], list[ServerSentEvent]]
"""Returns the events since the look before; called in a thread."""


class Streams:
    """All open streams of one daemon."""

    def __init__(self, stopping: Callable[[], bool]) -> None:
        self._stopping = stopping
        self._open = 0

    async def place(self) -> AsyncIterator[None]:
        """Hold a place while a stream is open, as a dependency of its call.

        Raises HTTPException 503, which a stream itself could not: its status is sent by then.
        """
        if self._open >= _MAX_STREAMS:
            raise HTTPException(503, f"{_MAX_STREAMS} listen already; ask /api/status instead")
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def follow(self, look: Look) -> AsyncIterator[Any]:
        """Yield events until the daemon stops. FastAPI keeps a silent connection alive.

        The items are `Any` because a call declares the model of their data, for OpenAPI.
        """
        while not self._stopping():
            for event in await asyncio.to_thread(look):
                yield event
            await asyncio.sleep(_INTERVAL_SECONDS)
