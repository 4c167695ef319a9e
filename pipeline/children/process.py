"""Child process, the parent's end: start it, exchange messages, detect timeout and exit.

Does not interpret the messages; image_pool.py and worker_session.py do.
"""

import asyncio
import contextlib
import math
import os
import resource
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from pipeline.children.line_budget import LineBudget
from pipeline.children.protocol import CHANNEL_FD, Reply, Request, dump, read_reply
from pipeline.children.timeouts import wait_excluding_stalls

_MAX_LINE_BYTES = 1 << 20
_MAX_TAIL_CHARACTERS = 1000
_TERM_GRACE_SECONDS = 10.0
_KILL_GRACE_SECONDS = 10.0
_SECRET_SETTINGS = ("I2VD_QUEUE", "I2VD_WEBHOOK")


@dataclass(frozen=True)
class Exited:
    """Exit of the child; `cause` is a sentence, `stderr` its last lines.

    `returncode` as in subprocess; None if the child was killed for breaking its channel.
    """

    cause: str
    stderr: tuple[str, ...] = ()
    returncode: int | None = None

    def __str__(self) -> str:
        return f"{self.cause}: {self.stderr[-1]}" if self.stderr else self.cause


@dataclass(frozen=True)
class TimedOut:
    """No message from the child for `seconds`."""

    seconds: float


class Child:
    """Process `python -m MODULE` with a channel to it. Create it with `spawn`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        channel: socket.socket,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_line: Callable[[str], None],
    ) -> None:
        self._process = process
        self._channel = channel
        self._reader = reader
        self._writer = writer
        self._tail: deque[str] = deque(maxlen=5)
        self._stderr = asyncio.create_task(self._forward_stderr(on_line))

    @classmethod
    async def spawn(
        cls, module: str, on_line: Callable[[str], None], env: Mapping[str, str] | None = None
    ) -> "Child":
        """Start the child; each line of its stderr goes to `on_line`.

        `env` is all of its environment beside the channel's number; None: as this process's. A
        separate process group keeps a terminal's Ctrl-C away from the child. `-P` keeps the working
        folder, which may be writable by others, off its import path.
        """
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", module),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                process_group=0,
                limit=_MAX_LINE_BYTES,
                env={
                    **(public_environment() if env is None else env),
                    CHANNEL_FD: str(theirs.fileno()),
                },
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=_MAX_LINE_BYTES)
        return cls(process, ours, reader, writer, on_line)

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Return True while no exit was seen."""
        return self._process.returncode is None

    @property
    def is_stopped(self) -> bool:
        """Return True if the child stands still by SIGSTOP, or in a debugger."""
        try:
            return self._stat()[0] in ("T", "t")
        except OSError:  # it has exited
            return False

    def _stat(self) -> list[str]:
        """Return the fields of proc_pid_stat(5) from the state on. Raises OSError."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()

    @property
    def ended(self) -> bool:
        """Return True if the child exited, or closed its channel."""
        return not self.alive or self._reader.at_eof()

    def limit_cpu(self, seconds: float) -> None:
        """Limit the CPU time from now on to what all cores give in `seconds`.

        A timeout ends the child earlier. This ends one that is busy when the parent is gone.
        """
        with contextlib.suppress(OSError):  # it ended, or the container forbids it
            stat = self._stat()
            used = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
            most = math.ceil(used + seconds * (os.cpu_count() or 1)) + 1
            hard = resource.prlimit(self.pid, resource.RLIMIT_CPU)[1]
            if hard == resource.RLIM_INFINITY or most < hard:
                resource.prlimit(self.pid, resource.RLIMIT_CPU, (most, hard))

    async def send(self, message: Request, descriptors: Sequence[int] = ()) -> None:
        """Send a request; a dead child is ignored, because `receive` reports it.

        The child gets copies of the `descriptors`. At most one such request may be unanswered, so
        that it fits into the socket's buffer.
        """
        line = dump(message)
        with contextlib.suppress(OSError if descriptors else ConnectionError):
            if descriptors:  # asyncio has no way to send them
                sent = socket.send_fds(self._channel, [line], descriptors)
                line = line[sent:]
            self._writer.write(line)
            await self._writer.drain()

    async def is_idle(self) -> bool:
        """Return True if the child waits for a request: it neither exited nor said anything.

        What it said unasked is lost.
        """
        if self.ended:
            return False
        try:
            async with asyncio.timeout(0):
                await self._reader.readline()
        except TimeoutError:
            return True
        except (ConnectionError, ValueError):
            pass
        return False

    async def receive(self, limit: float | None = None) -> Reply | Exited | TimedOut:
        """Return the next reply or the exit; TimedOut only with a `limit` in seconds."""
        try:
            line = await wait_excluding_stalls(limit, self._reader.readline)
        except TimeoutError:
            return TimedOut(limit or 0.0)
        except ConnectionError:  # the child died before it read the request
            return await self._exited()
        except ValueError as error:
            await self.kill()
            return Exited(f"broke its channel ({error})", tuple(self._tail))
        if not line.endswith(b"\n"):
            return await self._exited()
        try:
            return read_reply(line)
        except ValidationError:
            await self.kill()
            return Exited(f"wrote rubbish on its channel: {line[:80]!r}", tuple(self._tail))

    async def _exited(self) -> Exited:
        """After the channel's end, wait for the process and drain its stderr."""
        try:
            await wait_excluding_stalls(_TERM_GRACE_SECONDS, self._process.wait)
        except TimeoutError:
            await self.kill()
            return Exited("closed its channel and went on", tuple(self._tail))
        await self._stderr
        self._writer.close()
        code = self._process.returncode
        return Exited(_describe_exit(code), tuple(self._tail), code)

    def half_close(self) -> None:
        """Close the sending side: the child finishes its work, reports it and exits."""
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    async def close(self) -> None:
        """End an idle child: close its channel, and kill it if it does not exit."""
        self._writer.close()
        try:
            async with asyncio.timeout(_TERM_GRACE_SECONDS):
                await self._process.wait()
        except TimeoutError:
            await self.kill()
        await self._stderr

    async def kill(self, grace: float = _TERM_GRACE_SECONDS) -> None:
        """Send SIGTERM, and SIGKILL after `grace` seconds; at once if the child stands still."""
        if self.is_stopped:  # it would heed SIGTERM once it is resumed
            grace = 0
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(grace):
                await self._process.wait()
        except TimeoutError:
            await self._kill_now()
        self._writer.close()
        await self._stderr

    async def _kill_now(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        try:
            async with asyncio.timeout(_KILL_GRACE_SECONDS):
                await self._process.wait()
        except TimeoutError:  # it waits in the kernel for a share that hangs, and dies after that
            self._stderr.cancel()

    async def _forward_stderr(self, on_line: Callable[[str], None]) -> None:
        """Pass on the lines within their budget, and read all: the child never waits."""
        stream = self._process.stderr
        assert stream is not None
        budget, loop = LineBudget(), asyncio.get_running_loop()
        while True:
            try:
                line = await stream.readline()
            except ValueError:
                continue  # the stream dropped a line over the limit
            text = line.decode(errors="replace").rstrip()
            if text:
                self._tail.append(text[:_MAX_TAIL_CHARACTERS])
            for each in budget.spend(text, loop.time()) if text else ():
                on_line(each)
            if not line:
                break
            await asyncio.sleep(0)  # lines that are buffered do not let others run
        for each in budget.settle():
            on_line(each)


def public_environment() -> dict[str, str]:
    """Return the environment without settings that may contain a password."""
    return {k: v for k, v in os.environ.items() if not k.startswith(_SECRET_SETTINGS)}


def _describe_exit(returncode: int | None) -> str:
    if returncode is not None and returncode < 0:
        return f"was killed by {_signal_name(-returncode)}"
    return f"ended with exit code {returncode}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # the real-time signals between SIGRTMIN and SIGRTMAX have no names
        return f"signal {number}"
