"""Channel: the child's end of the socket, used by the worker and the image child.

The child's stdout is redirected to stderr at once, so that no library's output can reach the
channel. If the parent dies the channel ends, and so does the child. The parent's end is process.py.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator

from pipeline.children.protocol import CHANNEL_FD, Hello, Reply, Request, dump, read_request

_MAX_DESCRIPTORS = 2


class ParentGone(Exception):
    """End of the channel: the parent process is gone."""


class Channel:
    """JSON lines over a socket: requests in, replies out. Thread-safe for sending only."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = b""
        self._descriptors: list[int] = []
        self._sending = threading.Lock()

    @classmethod
    def open(cls, hello: Callable[[], Hello] = Hello) -> "Channel":
        """Open the descriptor that the parent passed and send Hello. Raises ParentGone.

        `hello` makes the message as the last step: it may lock the process down.

        Ctrl-C in a terminal reaches the whole process group. Only the parent handles it, so the
        child ignores SIGINT.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        channel = cls(socket.socket(fileno=int(os.environ.pop(CHANNEL_FD))))
        channel.send(hello())
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
            try:
                chunk, descriptors, _, _ = socket.recv_fds(self._socket, 65536, _MAX_DESCRIPTORS)
            except ConnectionResetError as error:  # it left replies unread
                raise ParentGone from error
            if not chunk:
                raise ParentGone
            self._buffer += chunk
            self._descriptors += descriptors
        line, self._buffer = self._buffer.split(b"\n", 1)
        return read_request(line)

    @contextlib.contextmanager
    def descriptors(self) -> Iterator[list[int]]:
        """Yield the descriptors that came with the last request, and close them afterwards."""
        descriptors, self._descriptors = self._descriptors, []
        try:
            yield descriptors
        finally:
            for each in descriptors:
                os.close(each)

    def waiting(self) -> bool:
        """Return True if `receive` would not block: a request or the channel's end is pending."""
        return b"\n" in self._buffer or bool(select.select([self._socket], [], [], 0)[0])
