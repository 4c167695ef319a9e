"""Server-sent events: an answer that goes on as things happen, for some listeners at once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi import HTTPException
from fastapi.responses import StreamingResponse

_INTERVAL = 1.0
"""Seconds between two looks for something to tell."""
_SILENCE = 15.0
"""Seconds after which something is sent, so that a proxy keeps the connection."""
_MOST_LISTENERS = 32
TYPE = "text/event-stream"

Look = Callable[[], Awaitable[str]]
"""What is to be sent now, as events; empty: nothing new."""


class Streams:
    """All that listen to one daemon."""

    def __init__(self, stopping: Callable[[], bool]) -> None:
        self._stopping = stopping
        self._listeners = 0

    def open(self, look: Look) -> StreamingResponse:
        """An answer that looks once a second, until the daemon stops or the caller goes.

        Raises HTTPException 503.
        """
        if self._listeners >= _MOST_LISTENERS:
            raise HTTPException(503, f"{_MOST_LISTENERS} listen already; ask /api/status instead")
        return StreamingResponse(self._sent(look), media_type=TYPE)

    async def _sent(self, look: Look) -> AsyncIterator[str]:
        self._listeners += 1
        try:
            silent = 0.0
            while not self._stopping():
                text = await look()
                silent += _INTERVAL
                if not text and silent >= _SILENCE:
                    text = ": still here\n\n"
                if text:
                    silent = 0.0
                    yield text
                await asyncio.sleep(_INTERVAL)
        finally:
            self._listeners -= 1


def event(kind: str, data: str, number: int | None = None) -> str:
    """One event: `data` is a line of JSON; who listens again says the `number` it had last."""
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {kind}\ndata: {data}\n\n"


def described(what: str) -> dict[int | str, dict[str, Any]]:
    """Such an answer for OpenAPI."""
    return {200: {"description": what, "content": {TYPE: {"schema": {"type": "string"}}}}}
