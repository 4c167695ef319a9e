"""A webhook receiver."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from daemon.cli.sandbox import free_port


class Receiver:
    """A real HTTP server that stores messages; it can be down or refuse them."""

    def __init__(self) -> None:
        self.port = free_port()
        self.messages: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        """Statuses of the next responses; 204 when empty."""
        self._server: HTTPServer | None = None

    @property
    def received(self) -> list[tuple[str, str]]:
        """Accepted messages, as (event, path)."""
        bodies = [json.loads(body) for _, body in self.messages]
        return [(body["event"], body["job"]["path"]) for body in bodies]

    def open(self) -> None:
        """Start listening."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status = receiver.answers.pop(0) if receiver.answers else 204
                if status == 204:
                    receiver.messages.append((dict(self.headers.items()), body))
                self.send_response(status)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
