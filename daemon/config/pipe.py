"""Settings from a pipe, such as `--config <(command)`: all of it, and no endless wait."""

import os
import select
from pathlib import Path

from rules.text_file import Unreadable, decode

_MAX_BYTES = 1 << 20
_NO_WRITER_SECONDS = 5.0
"""Limit until a program opens a named pipe for writing."""
_SILENT_SECONDS = 60.0
"""Limit until a program that has the pipe open writes more, or closes it."""


def read_pipe(pipe: Path) -> str:
    """Read and decode what programs write to a pipe. Raises Unreadable, OSError."""
    descriptor = os.open(pipe, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        content = b""
        while part := _read(descriptor, is_first=not content):
            content += part
            if len(content) > _MAX_BYTES:
                raise Unreadable(f"is over {_MAX_BYTES // 1024} KiB")
        return decode(content)
    finally:
        os.close(descriptor)


def _read(descriptor: int, *, is_first: bool) -> bytes:
    """Return what is there; empty once every writer has closed the pipe. Raises Unreadable."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while True:
        try:
            part = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            limit, silence = _SILENT_SECONDS, "is a pipe into which a program writes nothing"
        else:
            # without a writer, a pipe looks as if it had ended
            if part or not is_first:
                return part
            limit, silence = _NO_WRITER_SECONDS, "is a pipe into which no program writes"
        events = poll.poll(limit * 1000)
        if not events:
            raise Unreadable(f"{silence}; waited {limit:g} s")
        if not events[0][1] & select.POLLIN:  # a writer came, wrote nothing, and closed it
            return b""
