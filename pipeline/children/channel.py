"""The child's end of the channel, shared by the worker and the picture child.

The child's stdout is turned into stderr at once, so that nothing a library prints can reach the
channel. If the parent dies the channel ends, and so does the child.
"""

import os
import select
import signal
import socket
import sys
import threading

from pipeline.children.protocol import CHANNEL_FD, Hello, Reply, Request, dump, read_request


class ParentGone(Exception):
    """The channel ended: there is nobody left to work for."""


class Channel:
    """Requests in, replies out, one JSON object a line. Several threads may send, one receives."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = b""
        self._sending = threading.Lock()

    @classmethod
    def open(cls) -> "Channel":
        """Take the descriptor that the parent passed, and say hello.

        Ctrl-C in a terminal reaches the whole process group; the parent alone decides what it
        means, so the child ignores it.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        channel = cls(socket.socket(fileno=int(os.environ.pop(CHANNEL_FD))))
        channel.send(Hello())
        return channel

    def send(self, reply: Reply) -> None:
        """Raises ParentGone."""
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
        """Whether a request, or the channel's end, is there to be received."""
        return b"\n" in self._buffer or bool(select.select([self._socket], [], [], 0)[0])
