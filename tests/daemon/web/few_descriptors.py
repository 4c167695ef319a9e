"""A server that may have 256 files open; it prints its port, and after stdin the most it had."""

import asyncio
import resource
import socket
import sys
from pathlib import Path
from typing import Any

from daemon.config.settings import Http
from daemon.web.connections import Connections
from daemon.web.server import Server


async def application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"well"})


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = Server(application, Connections(Http()))
    sock = socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(server.serve(sockets=[sock]))
    most = 0

    def look() -> None:
        """Count the open files in each turn of the loop; 10,000 if none is left for that."""
        nonlocal most
        try:
            most = max(most, len(list(Path("/proc/self/fd").iterdir())))
        except OSError:
            most = 10_000
        loop.call_soon(look)

    while not server.started:
        await asyncio.sleep(0.01)
    print(sock.getsockname()[1], flush=True)
    look()
    await asyncio.to_thread(sys.stdin.read)
    print(most, flush=True)
    server.should_exit = True
    await task


resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
asyncio.run(main())
