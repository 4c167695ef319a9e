"""Server-sent event streams: a limit on their number, and their end when the daemon stops."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import HTTPException
from fastapi.sse import ServerSentEvent

_POLL_INTERVAL_SECONDS = 1.0
_MAX_STREAMS = 32

Poll = Callable[[], list[ServerSentEvent]]
"""Returns the events since the previous call; called in a thread."""


class Streams:
    """All open streams of one daemon."""

    def __init__(self, is_stopping: Callable[[], bool]) -> None:
        self._is_stopping = is_stopping
        self._open = 0

    async def admit(self) -> AsyncIterator[None]:
        """Count a stream while it is open; a FastAPI dependency of its operation.

        Raises HTTPException 503 if too many are open. The stream itself could not raise it:
        by then its status is sent.
        """
        if self._open >= _MAX_STREAMS:
            raise HTTPException(503, f"{_MAX_STREAMS} listen already; ask /api/status instead")
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def follow(self, poll: Poll) -> AsyncIterator[Any]:
        """Yield events until the daemon stops. FastAPI keeps a silent connection alive.

        The items are `Any` because an operation declares the model of their data for OpenAPI.
        """
        while not self._is_stopping():
            for event in await asyncio.to_thread(poll):
                yield event
            await asyncio.sleep(_POLL_INTERVAL_SECONDS)
