"""Channel: the child's end of the socket, used by the worker and the image child.

The child's stdout is redirected to stderr at once, so that no library's output can reach the
channel. If the parent dies the channel ends, and so does the child. The parent's end is process.py.
"""

import os
import select
import signal
import socket
import sys
import threading

from pipeline.children.protocol import CHANNEL_FD, Hello, Reply, Request, dump, read_request


class ParentGone(Exception):
    """End of the channel: the parent process is gone."""


class Channel:
    """JSON lines over a socket: requests in, replies out. Thread-safe for sending only."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = b""
        self._sending = threading.Lock()

    @classmethod
    def open(cls) -> "Channel":
        """Open the descriptor that the parent passed and send Hello.

        Ctrl-C in a terminal reaches the whole process group. Only the parent handles it, so the
        child ignores SIGINT.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        channel = cls(socket.socket(fileno=int(os.environ.pop(CHANNEL_FD))))
        channel.send(Hello())
        return channel

    def send(self, reply: Reply) -> None:
        """Send a reply. Raises ParentGone."""
        try:
            with self._sending:
                self._socket.sendall(dump(reply))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ParentGone from error

    def receive(self) -> Request:
        """Wait for the next request. Raises ParentGone."""
        while b"\n" not in self._buffer:
            chunk = self._socket.recv(65536)
            if not chunk:
                raise ParentGone
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        return read_request(line)

    def waiting(self) -> bool:
        """Return True if `receive` would not block: a request or the channel's end is pending."""
        return b"\n" in self._buffer or bool(select.select([self._socket], [], [], 0)[0])
