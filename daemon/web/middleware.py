"""The guard: who may ask, how much may be sent, and what a browser may do with an answer.

Every request passes here first. Asked by another name than ours, it may be a page that turned its
own name to our address (DNS rebinding); asked from another site, a page that uses the browser of
somebody who may. Where a token is demanded, only /healthz answers without it.
"""

import re
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from daemon.config.address import is_address
from daemon.web.auth import bearer_token, tokens_equal
from daemon.web.errors import problem

OPEN_PATH = "/healthz"
"""Answers without a token: it tells nothing, and what asks for it often cannot send one."""

UPLOAD_PATH = "/api/jobs"
"""Where a body may be as large as `http.max_upload`."""

_MAX_BODY_BYTES = 64 * 1024
_FORM_OVERHEAD_BYTES = 64 * 1024

_WITHOUT_PORT = re.compile(r":[0-9]*$")

_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class RequestGuard:
    """ASGI middleware. Answers to `names`, and by `any_address` to every IP address."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        names: Collection[str],
        any_address: bool,
        token: str | None,
        max_upload: int,
    ) -> None:
        self._app = app
        self._names = frozenset(names)
        self._any_address = any_address
        self._token = token
        self._max_upload = max_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on with a limit on the body, and with headers for the answer."""
        if scope["type"] != "http":
            return  # there are no web sockets here

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        headers = Headers(scope=scope)
        refusal = self._refusal(scope["path"], headers)
        if refusal:
            await problem(refusal)(scope, receive, answer)
            return
        most = _MAX_BODY_BYTES
        if scope["path"] == UPLOAD_PATH:
            most = self._max_upload + _FORM_OVERHEAD_BYTES
        await self._app(scope, _limited(receive, most), answer)

    def _refusal(self, path: str, headers: Headers) -> HTTPException | None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            return HTTPException(400, f"i2vd is not called {host!r} here; see http.names")
        if _from_another_site(headers, host):
            return HTTPException(403, "requests of other sites' pages are refused")
        if self._token is None or path == OPEN_PATH:
            return None
        if tokens_equal(bearer_token(headers.get("authorization", "")), self._token):
            return None
        ask = {"www-authenticate": 'Basic realm="i2vd", charset="UTF-8"'}
        return HTTPException(401, "the token is missing or wrong", ask)

    def _is_ours(self, host: str) -> bool:
        name = _WITHOUT_PORT.sub("", host).lower()
        return name in self._names or (self._any_address and is_address(name.strip("[]")))


def _from_another_site(headers: Headers, host: str) -> bool:
    """Whether a browser says that a page of another site asks. Following a link is no asking."""
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        return True
    site = headers.get("sec-fetch-site", "none")
    return site not in ("same-origin", "none") and headers.get("sec-fetch-mode") != "navigate"


def _limited(receive: Receive, most: int) -> Receive:
    """Return a `receive` that ends the request when its body is over `most` bytes."""
    # Not `max_body_size` of FastAPI: it answers a declared length in plain text, before the guard,
    # and continues to read after its 413.
    taken = 0

    async def limited() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > most:
            why = f"the request has more than the {most:,} bytes it may have"
            raise HTTPException(413, why, {"connection": "close"})
        return message

    return limited
