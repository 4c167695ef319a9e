"""Request guard: host check, cross-site check, authentication, body limit, security headers.

Every request passes here first. The host check stops DNS rebinding: a page whose own name resolves
to this address. The cross-site check stops a page that uses the browser of an authorised user. If
a token is configured, only /healthz answers without it.
"""

import re
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from daemon.config.address import is_address
from daemon.web.auth import bearer_token, tokens_equal
from daemon.web.errors import problem_response

OPEN_PATH = "/healthz"
"""Answers without a token: it reveals nothing, and many health checkers cannot send one."""

UPLOAD_PATH = "/api/jobs"
"""The only path whose body may be as large as `http.max_upload`."""

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
    """ASGI middleware. Accepts `names` as host, and any IP address if `any_address`."""

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
        """Refuse the request, or pass it on with a body limit and add the security headers."""
        if scope["type"] != "http":
            return  # the API has no web sockets

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        headers = Headers(scope=scope)
        refusal = self._refusal(scope["path"], headers)
        if refusal:
            await problem_response(refusal)(scope, receive, send_with_headers)
            return
        limit = _MAX_BODY_BYTES
        if scope["path"] == UPLOAD_PATH:
            limit = self._max_upload + _FORM_OVERHEAD_BYTES
        await self._app(scope, _limited(receive, limit), send_with_headers)

    def _refusal(self, path: str, headers: Headers) -> HTTPException | None:
        host = headers.get("host", "")
        if not self._is_allowed_host(host):
            return HTTPException(400, f"i2vd is not called {host!r} here; see http.allowed_hosts")
        if _from_another_site(headers, host):
            return HTTPException(403, "requests of other sites' pages are refused")
        if self._token is None or path == OPEN_PATH:
            return None
        if tokens_equal(bearer_token(headers.get("authorization", "")), self._token):
            return None
        challenge = {"www-authenticate": 'Basic realm="i2vd", charset="UTF-8"'}
        return HTTPException(401, "the token is missing or wrong", challenge)

    def _is_allowed_host(self, host: str) -> bool:
        name = _WITHOUT_PORT.sub("", host).lower()
        return name in self._names or (self._any_address and is_address(name.strip("[]")))


def _from_another_site(headers: Headers, host: str) -> bool:
    """Return True if a browser reports that another site's page sent this; links are allowed."""
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        return True
    site = headers.get("sec-fetch-site", "none")
    return site not in ("same-origin", "none") and headers.get("sec-fetch-mode") != "navigate"


def _limited(receive: Receive, limit: int) -> Receive:
    """Return a `receive` that ends the request when its body is over `limit` bytes."""
    # Not `max_body_size` of FastAPI: it answers a declared length in plain text, before the guard,
    # and continues to read after its 413.
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            reason = f"the request has more than the {limit:,} bytes it may have"
            raise HTTPException(413, reason, {"connection": "close"})
        return message

    return limited
