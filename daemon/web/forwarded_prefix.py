"""Forwarded prefix: the path of a reverse proxy under which the API is reached.

The page needs none of it: all its addresses are relative. The API's description names the prefix as
its server.
"""

import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")


class ForwardedPrefix:
    """ASGI middleware. Takes `X-Forwarded-Prefix`, which the proxy has removed from the path."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, with the prefix as its root path."""
        prefix = Headers(scope=scope).get("x-forwarded-prefix", "").rstrip("/")
        if _PREFIX.fullmatch(prefix):
            scope = {**scope, "root_path": prefix, "path": prefix + scope["path"]}
        await self._app(scope, receive, send)
