"""The http server, in the daemon's own loop. Its port is open before READY is said."""

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import uvicorn

from daemon.config.address import is_loopback, split_address
from daemon.config.secret_file import read_token
from daemon.config.settings import Http, SettingsError
from daemon.status import Status
from daemon.telemetry import systemd
from daemon.web.actions import Actions
from daemon.web.api import create_api


class CannotListen(Exception):
    """The address is taken or not ours."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which are the daemon's, and with a slower clock."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        """Ten ticks a second are the largest part of an idle daemon's work; two are enough."""
        while not self.should_exit:
            await self.on_tick(0)
            await asyncio.sleep(0.5)


@contextlib.asynccontextmanager
async def serving(status: Status, actions: Actions) -> AsyncIterator[None]:
    """Serve the API while the context lasts. Raises CannotListen, SettingsError."""
    settings = status.services.settings
    http = settings.http
    token = read_token(http.token_file)
    sock = systemd.listening_socket() or _listen(http)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        # asyncio does it only where the socket says that it is TCP; without, an answer waits 40 ms
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if token is None:
        _refuse_others(sock)
    config = uvicorn.Config(
        create_api(status, actions, token),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=3,
        server_header=False,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[sock]))
    while not server.started and not task.done():  # noqa: ASYNC110 (uvicorn has no event for it)
        await asyncio.sleep(0.01)
    try:
        with _uploads_in(settings.state):
            yield
    finally:
        server.should_exit = True
        await task


@contextlib.contextmanager
def _uploads_in(folder: Path) -> Iterator[None]:
    """Uploads lie there while they come, without a name: a crash leaves none of them behind.

    Not in /tmp, which is small on many a machine, and on some it is memory.
    """
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _listen(http: Http) -> socket.socket:
    host, port = split_address(http.listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise CannotListen(
            f"http.listen {http.listen}: {error.strerror}; choose another port in the settings"
        ) from error


def _refuse_others(sock: socket.socket) -> None:
    """The socket may come from systemd, whose unit knows nothing of our settings."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        host, port = sock.getsockname()[:2]
        if not is_loopback(host):
            raise SettingsError(
                f"other machines reach the socket that was passed, {host} port {port}: set "
                f"http.token_file, or ListenStream=127.0.0.1:{port} in i2vd.socket"
            )
