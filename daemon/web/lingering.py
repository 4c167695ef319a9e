"""Lingering close: read on for a while after an answer that came before the end of the body.

If the server closed at once, the rest of the body would reset the connection. The answer, such as
413, would be lost on its way; a proxy reports 502 instead.
"""

import asyncio
import contextlib

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MAX_SECONDS = 10.0
_MAX_BYTES = 10_000_000


class LingeringClose:
    """ASGI middleware. Holds back the end of a response until the request's body has ended."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; after an early answer, throw away what still comes."""
        has_rest = scope["type"] == "http"

        async def note_end() -> Message:
            nonlocal has_rest
            message = await receive()
            has_rest = message["type"] == "http.request" and message.get("more_body", False)
            return message

        async def drain() -> None:
            received = 0
            while has_rest and received < _MAX_BYTES:
                received += len((await note_end()).get("body", b""))

        async def send_then_drain(message: Message) -> None:
            is_end = message["type"] == "http.response.body" and not message.get("more_body", False)
            if is_end and has_rest:
                await send({**message, "more_body": True})
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_MAX_SECONDS):
                        await drain()
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        await self._app(scope, note_end, send_then_drain)
