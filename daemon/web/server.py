"""The HTTP server, in the daemon's event loop; its port is open before systemd is notified."""

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
    """The address is in use or does not belong to this machine."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers (the daemon has its own) and with a slower tick."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        """Tick twice a second: uvicorn's ten ticks are most of an idle daemon's CPU time."""
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
        # asyncio sets it only on sockets with an explicit TCP protocol; unset, responses take 40 ms
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if token is None:
        _require_loopback(sock)
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


def _listen(http: Http) -> socket.socket:
    host, port = split_address(http.listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise CannotListen(
            f"http.listen {http.listen}: {error.strerror}; choose another port in the settings"
        ) from error


def _require_loopback(sock: socket.socket) -> None:
    """Raise SettingsError if other machines reach the socket: systemd may have passed it."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        host, port = sock.getsockname()[:2]
        if not is_loopback(host):
            raise SettingsError(
                f"other machines reach the socket that was passed, {host} port {port}: set "
                f"http.token_file, or ListenStream=127.0.0.1:{port} in i2vd.socket"
            )
