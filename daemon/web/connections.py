"""Connections: bounds on their number, by peer too, and deadlines for what a client must send.

A client that opens connections and says nothing costs a descriptor each, before any token. So at
the bound the oldest connection without a request gives way to the new one. A connection with a
request stays, and is closed only when its client stalls. Requests whose body is still to come may
hold three quarters of the connections, so that slow uploads keep no short request out.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import h11
import structlog
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

from daemon.config.address import peer_of
from daemon.config.settings import Http
from daemon.fs import descriptors
from daemon.web.errors import problem_response

HEAD_SECONDS = 20.0
"""Limit for the head of a request, from the connection's start or the head's first byte."""

IDLE_SECONDS = 75.0
"""Limit between two requests; longer than the 60 seconds for which proxies keep connections."""

STALL_SECONDS = 30.0
"""Limit without a byte of a body that is not complete."""

_MIN_BYTES_PER_SECOND = 500
"""Slowest average rate of a body after the first STALL_SECONDS."""

UNREAD_SECONDS = 60.0
"""Limit without progress of a response that the client does not read."""

RESERVED_DESCRIPTORS = 160
"""Kept free for files, children, the queue, and connections that are being closed (server.py)."""

_LEAST_CONNECTIONS = 8
_MAX_SHARE_OF_BODIES = 0.75
"""Share of the connections, all and by peer, that may wait for the rest of a body."""
_LOG_INTERVAL_SECONDS = 60.0

log = structlog.get_logger()


class Connections:
    """All open connections, within `http.max_connections` and `http.max_connections_per_peer`."""

    def __init__(self, http: Http) -> None:
        room = max(_LEAST_CONNECTIONS, descriptors.limit() - RESERVED_DESCRIPTORS)
        self.most = min(http.max_connections, room)
        self.most_of_peer = min(http.max_connections_per_peer, max(1, self.most // 2))
        self._open: dict[str, set[Connection]] = {}
        self._events: Counter[str] = Counter()
        self._peer = ""
        self._logged_at = -_LOG_INTERVAL_SECONDS

    def admit(self, new: "Connection") -> bool:
        """Add a connection; close another one for it at the bound. False if none can give way."""
        own = self._open.setdefault(new.peer, set())
        candidates: Iterable[Connection] = ()
        if len(own) >= self.most_of_peer:
            candidates = own
        elif len(self) >= self.most:
            candidates = self._all()
        else:
            own.add(new)
            return True
        idle = [each for each in candidates if not each.has_request]
        if not idle:
            self.count("refused", new.peer)
            return False
        oldest = min(idle, key=lambda each: each.idle_since)
        self.remove(oldest)
        oldest.abort()
        self._open.setdefault(new.peer, set()).add(new)
        self.count("closed_idle", new.peer)
        return True

    def may_await_body(self, connection: "Connection") -> bool:
        """Return False if too many requests, all or of this peer, wait for the rest of a body."""
        own = self._open.get(connection.peer, set())
        for among, most in ((own, self.most_of_peer), (self._all(), self.most)):
            waiting = sum(each.awaits_body for each in among)
            if waiting > max(1, int(most * _MAX_SHARE_OF_BODIES)):
                self.count("refused_bodies", connection.peer)
                return False
        return True

    def remove(self, connection: "Connection") -> None:
        """Forget a connection."""
        own = self._open.get(connection.peer, set())
        own.discard(connection)
        if not own:
            self._open.pop(connection.peer, None)

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    def count(self, event: str, peer: str) -> None:
        """Count an event for the next line of the log."""
        self._events[event] += 1
        self._peer = peer

    def sweep(self) -> None:
        """Close overdue connections, and log what was counted, at most one line a minute."""
        now = time.monotonic()
        for connection in self._all():
            if reason := connection.overdue(now):
                self.count(reason, connection.peer)
                self.remove(connection)
                connection.abort()
        # Browsers open connections in reserve: silence alone is no news.
        worth_a_line = self._events.keys() - {"silent"}
        if worth_a_line and now - self._logged_at >= _LOG_INTERVAL_SECONDS:
            log.warning(
                "connections limited", **self._events, open=len(self), most=self.most,
                most_of_peer=self.most_of_peer, last_peer=self._peer,
            )  # fmt: skip
            self._logged_at = now
            self._events.clear()

    def _all(self) -> list["Connection"]:
        return [connection for own in self._open.values() for connection in own]


class Connection(H11Protocol):
    """One HTTP/1.1 connection; every deadline is checked by `Connections.sweep`."""

    def __init__(self, connections: Connections, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._bounds = connections
        self.peer = ""
        self.idle_since = self._received_at = time.monotonic()
        self._limit = HEAD_SECONDS
        self._head_since: float | None = None
        self._request_since = 0.0
        self._body_bytes = 0
        self._unread_since: float | None = None

    @property
    def has_request(self) -> bool:
        """True from a request's complete head to its answer."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return False
        return not (cycle.response_started and cycle.more_body)  # answered, but still being sent

    @property
    def awaits_body(self) -> bool:
        """True while a request's body is still to come."""
        return self.has_request and self.cycle.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or refuse it with 503."""
        super().connection_made(transport)
        self.peer = peer_of(self.client[0]) if self.client else "local"
        if not self._bounds.admit(self):
            self._answer_and_close(HTTPException(503, "too many connections"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._bounds.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Note the time of what the client sends."""
        self._received_at = time.monotonic()
        if self.has_request:
            self._body_bytes += len(data)
        elif self._head_since is None:
            self._head_since = self._received_at
        super().data_received(data)

    def handle_events(self) -> None:
        """Handle requests; with a new one its deadlines begin."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._head_since = None
            self._request_since = time.monotonic()
            self._body_bytes = 0
            if self.awaits_body and not self._bounds.may_await_body(self):
                self._drop_request()
                self._answer_and_close(
                    HTTPException(503, "too many uploads at once; send it again later")
                )

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self.idle_since = time.monotonic()
        self._limit = IDLE_SECONDS
        if self.conn.their_state is h11.SEND_BODY:  # more than LingeringClose waits for
            self.transport.close()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Note since when the client does not read."""
        self._unread_since = time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        """The client has read."""
        self._unread_since = None
        super().resume_writing()

    def overdue(self, now: float) -> str | None:
        """Return why the connection is to be closed; None while it is in time."""
        if self._unread_since is not None and now - self._unread_since > UNREAD_SECONDS:
            return "unread"
        if not self.has_request:
            return "silent" if self._head_is_overdue(now) else None
        return "stalled" if self._body_is_overdue(now) else None

    def _head_is_overdue(self, now: float) -> bool:
        if self._head_since is not None and now - self._head_since > HEAD_SECONDS:
            return True
        return now - self.idle_since > self._limit

    def _body_is_overdue(self, now: float) -> bool:
        cycle = self.cycle
        if not cycle.more_body or self.flow.read_paused or cycle.waiting_for_100_continue:
            return False  # complete, or the client waits for us
        if now - self._received_at > STALL_SECONDS:
            return True
        allowed = STALL_SECONDS + self._body_bytes / _MIN_BYTES_PER_SECOND
        return now - self._request_since > allowed

    def abort(self) -> None:
        """Close at once, without the rest of a response."""
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP with 400, unless a response has begun, and close."""
        self._bounds.count("not_http", self.peer)
        if self.has_request:  # its body is not HTTP
            self._drop_request()
        self._answer_and_close(HTTPException(400, "this is not a valid HTTP request"))

    def _drop_request(self) -> None:
        """Keep the application from answering, as if the client had gone."""
        self.cycle.disconnected = True
        self.cycle.message_event.set()

    def _answer_and_close(self, error: HTTPException) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = problem_response(error)
            headers = [*response.raw_headers, (b"connection", b"close")]
            for event in (
                h11.Response(status_code=error.status_code, headers=headers),
                h11.Data(data=bytes(response.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
