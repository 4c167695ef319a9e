"""HEAD requests: answered wherever GET is, with GET's headers and without its body."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadRequests:
    """ASGI middleware. The application sees a GET whose client leaves after the headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; send the headers of a HEAD request only."""
        is_head = scope["type"] == "http" and scope["method"] == "HEAD"
        answered = False

        async def send_headers(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                _allow_head(message)
            if not is_head:
                await send(message)
            elif not answered:
                answered = True
                await send(message)
                # From here on `receive` reports a disconnect, which ends event streams too.
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app({**scope, "method": "GET"} if is_head else scope, receive, send_headers)


def _allow_head(message: Message) -> None:
    """Add HEAD to the methods that a 405 response lists with GET."""
    headers = MutableHeaders(scope=message)
    if message["status"] == 405 and "GET" in headers.get("allow", ""):
        headers["allow"] += ", HEAD"
