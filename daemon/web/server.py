"""The http server, in the daemon's own loop. Its port is open before READY is said."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import uvicorn

from daemon import systemd
from daemon.web.api import create_api

if TYPE_CHECKING:
    from daemon.app import App


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
async def serving(app: "App") -> AsyncIterator[None]:
    """Serve the API while the context lasts. Raises CannotListen."""
    sock = systemd.listening_socket() or _listen(app.settings.http.listen)
    config = uvicorn.Config(
        create_api(app),
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
        yield
    finally:
        server.should_exit = True
        await task


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    try:
        return socket.create_server((host, int(port)))
    except OSError as error:
        raise CannotListen(
            f"http.listen {address}: {error.strerror}; choose another port in the settings"
        ) from error
