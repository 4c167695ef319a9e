"""Upload gate: room is asked for before a body is received, and few are received at once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.exceptions import HTTPException

from daemon.telemetry.metrics import free_bytes

_WAIT_SECONDS = 20.0
"""Shorter than the time after which a connection counts as stalled."""


class UploadGate:
    """Admits uploads of up to `max_bytes`, `max_uploads` at once, into the folder `spool`."""

    def __init__(self, spool: Path, *, min_free: int, max_bytes: int, max_uploads: int) -> None:
        self._spool = spool
        self._min_free = min_free
        self._max_bytes = max_bytes
        self._slots = asyncio.Semaphore(max_uploads)
        self._expected = 0
        """Bytes of the uploads that are admitted."""

    @contextlib.asynccontextmanager
    async def admit(self, declared: int | None) -> AsyncIterator[None]:
        """Hold a place for an upload of `declared` bytes; None if its length is not known.

        Raises HTTPException: 413, 507 without room, 503 if no place becomes free in time.
        """
        size = self._max_bytes if declared is None else declared
        if size > self._max_bytes:
            raise too_large(self._max_bytes)
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                await self._slots.acquire()
        except TimeoutError:
            raise HTTPException(
                503,
                "too many uploads at once; send it again, or raise http.max_uploads",
                {"retry-after": "5"},
            ) from None
        try:
            await asyncio.to_thread(
                require_space, self._spool, self._expected + size, self._min_free
            )
            self._expected += size
            try:
                yield
            finally:
                self._expected -= size
        finally:
            self._slots.release()


def require_space(folder: Path, size: int, min_free: int) -> None:
    """Raise HTTPException 507 if `size` bytes more would leave less than `min_free` free."""
    free = free_bytes(folder)
    if free is not None and free - size < min_free:
        raise HTTPException(
            507,
            f"no room for the upload, {size / 1e6:.1f} MB, in {folder}: {free / 1e6:.0f} MB free, "
            f"min_free is {min_free / 1e6:.0f} MB",
        )


def too_large(limit: int) -> HTTPException:
    """Return the error for a body of more than `limit` bytes."""
    return HTTPException(413, f"the request has more than the {limit:,} bytes it may have")
