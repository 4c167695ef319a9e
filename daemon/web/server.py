"""The HTTP server, in the daemon's event loop; its port is open before systemd is notified."""

import asyncio
import contextlib
import functools
import logging
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from daemon.config.address import is_loopback, split_address
from daemon.config.secret_file import read_token
from daemon.config.settings import Http, SettingsError
from daemon.status import Status
from daemon.telemetry import systemd
from daemon.web.actions import Actions
from daemon.web.api import create_api
from daemon.web.connections import IDLE_SECONDS, Connection, Connections

_ACCEPTED_AT_ONCE = 8
"""asyncio accepts so many of each socket in one turn of its loop. What gives way to them is closed
three turns later, so at a flood three times as many descriptors are open beyond the bound."""

_BACKLOG = 1024
"""Connections that wait in the kernel to be accepted."""

_MAX_HEAD_BYTES = 64 * 1024


class CannotListen(Exception):
    """The address is in use or does not belong to this machine."""


class Server(uvicorn.Server):
    """uvicorn with bounded connections, without signal handlers (the daemon has its own)."""

    def __init__(self, api: ASGIApp, connections: Connections) -> None:
        # Bad requests of strangers must not fill the log: Connections counts them.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        # uvicorn calls it with its own arguments, as a class of protocols.
        protocol: Any = functools.partial(Connection, connections)
        super().__init__(
            uvicorn.Config(
                api,
                http=protocol,
                ws="none",
                log_config=None,
                access_log=False,
                lifespan="off",
                backlog=_ACCEPTED_AT_ONCE,
                h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
                timeout_keep_alive=int(IDLE_SECONDS),
                timeout_graceful_shutdown=3,
                server_header=False,
            )
        )
        self._connections = connections

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signal handlers as they are."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        asyncio.get_running_loop().set_exception_handler(self._handle_loop_error)
        await super().startup(sockets)
        for sock in sockets or []:
            sock.listen(_BACKLOG)  # asyncio has set it to _ACCEPTED_AT_ONCE

    async def main_loop(self) -> None:
        """Tick twice a second: uvicorn's ten ticks are most of an idle daemon's CPU time."""
        while not self.should_exit:
            await self.on_tick(0)
            self._connections.sweep()
            await asyncio.sleep(0.5)

    def _handle_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # asyncio reports each connection that it cannot accept, thousands a second.
        if context["message"] == "socket.accept() out of system resource":
            self._connections.count("not_accepted", "")
        else:
            loop.default_exception_handler(context)


@contextlib.asynccontextmanager
async def serving(status: Status, actions: Actions) -> AsyncIterator[None]:
    """Serve the API while the context lasts. Raises CannotListen, SettingsError."""
    settings = status.services.settings
    http = settings.http
    token = read_token(http.token_file)
    sockets = systemd.listening_sockets() or listen(http)
    for sock in sockets:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            # asyncio sets it only on sockets with an explicit TCP protocol; unset, responses take
            # 40 ms
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if token is None:
            _require_loopback(sock)
    server = Server(create_api(status, actions, token), Connections(http))
    task = asyncio.create_task(server.serve(sockets=sockets))
    while not server.started and not task.done():  # noqa: ASYNC110 (uvicorn has no event for it)
        await asyncio.sleep(0.01)
    try:
        with _spool_uploads_in(settings.state):
            yield
    finally:
        server.should_exit = True
        await task


@contextlib.contextmanager
def _spool_uploads_in(folder: Path) -> Iterator[None]:
    """Store uploads in `folder` while they are received, unnamed, so a crash leaves no file.

    /tmp is small on many machines, and on some it is in memory.
    """
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def listen(http: Http) -> list[socket.socket]:
    """Listen on the address of the settings: all addresses of "localhost", and IPv4 on [::] too.

    Raises CannotListen.
    """
    host, port = split_address(http.listen)
    try:
        if host != "localhost":
            return [_listen_on(host, port)]
        sockets = [_listen_on("127.0.0.1", port)]
        if _has_ipv6_loopback():
            sockets.append(_listen_on("::1", port))
        return sockets
    except OSError as error:
        reason = str(error.strerror).partition(" (while attempting")[0]
        raise CannotListen(
            f"http.listen {http.listen}: {reason}; choose another port in the settings"
        ) from error


def _listen_on(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    dual = host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server((host, port), family=family, dualstack_ipv6=dual)


def _has_ipv6_loopback() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def _require_loopback(sock: socket.socket) -> None:
    """Raise SettingsError if other machines reach the socket: systemd may have passed it."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        host, port = sock.getsockname()[:2]
        if not is_loopback(host):
            raise SettingsError(
                f"other machines reach the socket that was passed, {host} port {port}: set "
                f"http.token_file, or ListenStream=127.0.0.1:{port} in i2vd.socket"
            )
