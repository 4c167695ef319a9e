"""Request guard: host and origin checks, authentication, body limit, security headers.

Every request passes here first. If a token is configured, only /healthz answers without it.
"""

import contextlib
from contextlib import AbstractAsyncContextManager

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from daemon.web.auth import bearer_token, tokens_equal
from daemon.web.errors import problem_response
from daemon.web.origin import KnownHosts
from daemon.web.upload_gate import UploadGate, too_large

OPEN_PATH = "/healthz"
"""Answers without a token: it reveals nothing, and many health checkers cannot send one."""

UPLOAD_PATH = "/api/jobs"
"""The only path whose body may be as large as `http.max_upload`."""

_MAX_BODY_BYTES = 64 * 1024
FORM_OVERHEAD_BYTES = 64 * 1024
"""Room in an upload's body for the other fields of its form."""

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
    """ASGI middleware. Requests must present `token` if it is not None."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: KnownHosts,
        token: str | None,
        uploads: UploadGate,
        max_upload_bytes: int,
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._token = token
        self._uploads = uploads
        self._max_upload_bytes = max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on with a body limit and add the security headers."""
        if scope["type"] != "http":
            return  # the API has no web sockets

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_headers(MutableHeaders(scope=message))
            await send(message)

        headers = Headers(scope=scope)
        is_upload = scope["path"] == UPLOAD_PATH and scope["method"] == "POST"
        limit = self._max_upload_bytes if is_upload else _MAX_BODY_BYTES
        try:
            self._check(scope["path"], headers)
            async with self._admit(headers) if is_upload else contextlib.nullcontext():
                await self._app(scope, _limited(receive, limit), send_with_headers)
        except HTTPException as error:
            response = problem_response(error)
            if "expect" in headers:  # the client waits for 100 Continue: will its body follow?
                response.headers["connection"] = "close"
            await response(scope, receive, send_with_headers)

    def _check(self, path: str, headers: Headers) -> None:
        """Raise HTTPException for a request that must not reach the application."""
        if "transfer-encoding" in headers and "content-length" in headers:
            # RFC 9112, 6.1: the two may disagree, and a proxy may have believed the other one.
            reason = "the request has both Content-Length and Transfer-Encoding; send one"
            raise HTTPException(400, reason, {"connection": "close"})
        if refusal := self._hosts.refusal(headers):
            raise refusal
        if self._token is None or path == OPEN_PATH:
            return
        if not tokens_equal(bearer_token(headers.get("authorization", "")), self._token):
            challenge = {"www-authenticate": 'Basic realm="i2vd", charset="UTF-8"'}
            raise HTTPException(401, "the token is missing or wrong", challenge)

    def _admit(self, headers: Headers) -> AbstractAsyncContextManager[None]:
        length = headers.get("content-length", "")
        return self._uploads.admit(int(length) if length.isdecimal() else None)


def _add_headers(headers: MutableHeaders) -> None:
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)
    if headers.get("content-type", "").startswith("text/event-stream"):
        # A proxy must pass each event on at once, and store none.
        headers["cache-control"] = "no-store"
        headers["x-accel-buffering"] = "no"


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
            raise too_large(limit)
        return message

    return limited
