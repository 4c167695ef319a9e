"""Image pool: owns the two image children and replaces one that a picture ended.

What a child does with a picture is image/decode.py's.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from pipeline.children.exit_reasons import ChildFailure, classify_exit, oom_kills
from pipeline.children.process import Child, Exited, TimedOut
from pipeline.children.protocol import (
    HEARTBEAT_TIMEOUTS,
    Failed,
    Hello,
    Inspect,
    Inspected,
    Prepare,
    Prepared,
    Rejected,
    Unavailable,
)
from pipeline.request.spec import Spec

_CHILD = "the picture decoder"
_FAST_TIMEOUT_SECONDS = 5.0
"""Timeout of the fast lane, where a picture delays the others."""
_SLOW_TIMEOUT_SECONDS = 60.0
"""Timeout of the slow lane, which only such pictures use."""

Answer = Inspected | Prepared | Rejected | Unavailable | Failed


class PoisonImage(Rejected):
    """Picture that crashed or timed out two children; an unfinished copy never does that."""


class _Lane:
    """One child, which serves one picture at a time."""

    def __init__(
        self, on_line: Callable[[str], None], on_failure: Callable[[ChildFailure], None]
    ) -> None:
        self._on_line = on_line
        self._on_failure = on_failure
        self._child: Child | None = None
        self._lock = asyncio.Lock()
        self._kills_seen = oom_kills()

    async def ask(
        self, request: Inspect | Prepare, limit: float, *, last: bool = False
    ) -> Answer | ChildFailure:
        """Return the child's answer, or its failure; a failed child is replaced.

        After the `last` request the child is closed, which frees its memory.
        """
        async with self._lock:
            await self._discard_ended()
            match await self._exchange(request, limit):
                case (Exited() | TimedOut()) as end:
                    return await self._discard(end, "reading it")
                case answer:
                    if last:
                        await self.close()
                    return answer

    async def close(self) -> None:
        """End the child."""
        if self._child is not None:
            await self._child.close()
            self._child = None

    async def _exchange(
        self, request: Inspect | Prepare, limit: float
    ) -> Answer | Exited | TimedOut:
        if self._child is None:
            self._child = await Child.spawn("pipeline.image", self._on_line)
            hello = await self._child.receive(HEARTBEAT_TIMEOUTS["start"])
            if not isinstance(hello, Hello):
                return (
                    hello if isinstance(hello, (Exited, TimedOut)) else Exited("did not say hello")
                )
        await self._child.send(request)
        match await self._child.receive(limit):
            case (
                Inspected()
                | Prepared()
                | Rejected()
                | Unavailable()
                | Failed()
                | Exited()
                | TimedOut()
            ) as answer:
                return answer
            case other:
                return Exited(f"answered out of turn ({other.type})")

    async def _discard_ended(self) -> None:
        """Discard a child that ended while it was idle: the next picture is not to blame."""
        if self._child is not None and self._child.ended:
            end = await self._child.receive(_FAST_TIMEOUT_SECONDS)
            if not isinstance(end, (Exited, TimedOut)):
                end = Exited(f"answered out of turn ({end.type})")
            await self._discard(end, "no work")
        self._kills_seen = oom_kills()

    async def _discard(self, end: Exited | TimedOut, stage: str) -> ChildFailure:
        oom_killed = oom_kills() > self._kills_seen
        failure = classify_exit(_CHILD, end, stage, oom_killed=oom_killed)
        if self._child is not None:
            await self._child.kill(grace=1.0)
            self._child = None
            self._on_failure(failure)
        return failure


class ImagePool:
    """Inspects and prepares pictures in child processes without a GPU.

    A child may fail once by accident, and a large picture may take long on a slow machine. So a
    request that fails or times out is repeated once in a second child. That child exists only for
    such requests, so that other pictures never wait for them.
    """

    def __init__(
        self, on_line: Callable[[str], None], on_failure: Callable[[ChildFailure], None]
    ) -> None:
        self._fast = _Lane(on_line, on_failure)
        self._slow = _Lane(on_line, on_failure)

    async def inspect(
        self, path: Path, within: Path | None = None, *, lenient: bool = False
    ) -> Inspected | Rejected | Unavailable:
        """Decode the whole file and return its properties.

        Below `within`, a folder that others may write to, symlinks are not followed. `lenient` as
        in `Inspect`.
        """
        return await self.inspect_quickly(
            path, within, lenient=lenient
        ) or await self.inspect_slowly(path, within, lenient=lenient)

    async def inspect_quickly(
        self, path: Path, within: Path | None = None, *, lenient: bool = False
    ) -> Inspected | Rejected | Unavailable | None:
        """Inspect in the fast lane only; None on failure or timeout: use `inspect_slowly` then."""
        request = Inspect(path=str(path), within=str(within or ""), lenient=lenient)
        answer = await self._fast.ask(request, _FAST_TIMEOUT_SECONDS)
        if isinstance(answer, ChildFailure):
            return None
        assert isinstance(answer, (Inspected, Rejected, Unavailable))
        return answer

    async def inspect_slowly(
        self, path: Path, within: Path | None = None, *, lenient: bool = False
    ) -> Inspected | Rejected | Unavailable:
        """Inspect in the slow lane, the second and last try."""
        request = Inspect(path=str(path), within=str(within or ""), lenient=lenient)
        answer = await self._ask_slowly(request)
        assert isinstance(answer, (Inspected, Rejected, Unavailable))
        return answer

    async def prepare(
        self, path: Path, sha256: str, spec: Spec, output: Path, within: Path | None = None
    ) -> Prepared | Rejected | Unavailable:
        """Write the picture, framed as in the Spec, as a clean PNG to `output`.

        `within` as for `inspect`. Raises OSError if `output` cannot be written.
        """
        return await self._prepare(
            Prepare(
                path=str(path),
                within=str(within or ""),
                sha256=sha256,
                width=spec.width,
                height=spec.height,
                framing=spec.framing,
                output=str(output),
            )
        )

    async def thumbnail(
        self, path: Path, sha256: str, size: tuple[int, int], output: Path, within: Path
    ) -> Prepared | Rejected | Unavailable:
        """Write the whole picture, fitted into `size` (width, height), as a clean PNG to `output`.

        `within` as for `inspect`. Raises OSError if `output` cannot be written.
        """
        return await self._prepare(
            Prepare(
                path=str(path),
                within=str(within),
                sha256=sha256,
                width=size[0],
                height=size[1],
                framing="fit",
                output=str(output),
            )
        )

    async def _prepare(self, request: Prepare) -> Prepared | Rejected | Unavailable:
        answer = await self._fast.ask(request, _FAST_TIMEOUT_SECONDS)
        if isinstance(answer, ChildFailure):
            answer = await self._ask_slowly(request)
        if isinstance(answer, Failed):
            raise OSError(f"{request.output}: {answer.reason}")
        assert isinstance(answer, (Prepared, Rejected, Unavailable))
        return answer

    async def _ask_slowly(self, request: Inspect | Prepare) -> Answer:
        answer = await self._slow.ask(request, _SLOW_TIMEOUT_SECONDS, last=True)
        return (
            PoisonImage(reason=f"{answer.reason}, 2 times")
            if isinstance(answer, ChildFailure)
            else answer
        )

    async def close(self) -> None:
        """End the children."""
        await self._fast.close()
        await self._slow.close()
