"""Log writer: a bounded queue of finished lines, and the thread that writes them.

Nobody who logs waits for the reader of the log, or meets its errors: a pipe that nobody reads, a
full disk, a closed terminal, a stopped journald. What cannot be kept is lost, and counted.
"""

import atexit
import io
import os
import select
import threading
from collections import deque
from collections.abc import Callable

Write = Callable[[bytes], None]
"""Writes one line, and may block; raises OSError."""

_MAX_QUEUED_BYTES = 4 << 20
_FLUSH_SECONDS = 1.0
"""Limit on the wait for the last lines at the end of the process."""


class LogWriter:
    """Writes lines in order, in a thread of its own. `put` never blocks and never raises."""

    def __init__(self, on_recovery: Callable[[int], None] = lambda _: None) -> None:
        """Create a writer. `on_recovery` gets the number of lines lost, once lines pass again."""
        self._on_recovery = on_recovery
        self._lines: deque[tuple[Write, bytes]] = deque()
        self._queued_bytes = 0
        self._lost = 0
        self._reported = 0
        self._changed = threading.Condition()  # reentrant: a destructor or a signal may log
        self._thread: threading.Thread | None = None

    @property
    def lost(self) -> int:
        """Number of lines that were lost since the start."""
        return self._lost

    def put(self, write: Write, line: bytes) -> None:
        """Queue a line; it is lost if too much is queued already."""
        with self._changed:
            if self._lines and self._queued_bytes + len(line) > _MAX_QUEUED_BYTES:
                self._lost += 1
                return
            self._lines.append((write, line))
            self._queued_bytes += len(line)
            self._changed.notify_all()
            if self._thread is None:
                self._start()

    def lose(self) -> None:
        """Count a line that could not be made."""
        with self._changed:
            self._lost += 1

    def flush(self, seconds: float = _FLUSH_SECONDS) -> bool:
        """Wait until all lines are written, at most `seconds`; return False if some are not."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._lines, seconds)

    def _start(self) -> None:
        try:
            thread = threading.Thread(target=self._run, name="log writer", daemon=True)
            thread.start()
        except RuntimeError:  # no more threads, or the interpreter ends: a later line tries again
            return
        self._thread = thread
        atexit.register(self.flush)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                write, line = self._lines[0]
            written = _attempt(write, line)
            with self._changed:
                self._lines.popleft()
                self._queued_bytes -= len(line)
                self._lost += not written
                unreported = self._lost - self._reported
                if written and unreported and not self._lines:  # there is room for the report
                    self._reported += unreported
                    self._on_recovery(unreported)
                self._changed.notify_all()


def _attempt(write: Write, line: bytes) -> bool:
    try:
        write(line)
    except Exception:  # whatever it is, the next line may pass
        return False
    return True


class DescriptorWriter:
    """Writes lines to a file descriptor, also one that does not block."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._torn = False

    def __call__(self, line: bytes) -> None:
        """Write a line whole, after a line break if the last one was torn. Raises OSError."""
        rest = memoryview(b"\n" + line if self._torn else line)
        while rest:
            try:
                count = os.write(self._descriptor, rest)
            except BlockingIOError:
                _wait_until_writable(self._descriptor)
                continue
            self._torn = True
            rest = rest[count:]
        self._torn = False


def _wait_until_writable(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()


class LogStream(io.TextIOBase):
    """Text stream in place of stderr: what libraries and tracebacks write goes the same way."""

    def __init__(self, writer: LogWriter, write: Write, encoding: str) -> None:
        self._writer = writer
        self._write = write
        self._encoding = encoding
        self._rest = ""
        self._lock = threading.RLock()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Encoding of the stream below."""
        return self._encoding

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Queue the whole lines, and keep the rest for the next call."""
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
            for line in lines:
                self._writer.put(self._write, encode(line + "\n", self._encoding))
        return len(text)


def encode(text: str, encoding: str = "utf-8") -> bytes:
    """Encode a text; what the encoding lacks is escaped."""
    return text.encode(encoding, "backslashreplace")
