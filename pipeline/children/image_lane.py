"""Image lane: one image child, which serves one picture at a time and is replaced when it fails.

It is given open descriptors and returns facts and pixels; image/sandbox.py keeps it from more.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from pipeline.children.exit_reasons import ChildFailure, classify_exit, oom_kills
from pipeline.children.process import Child, Exited, TimedOut
from pipeline.children.protocol import (
    HEARTBEAT_TIMEOUTS,
    Hello,
    Inspect,
    Inspected,
    Prepare,
    Prepared,
    Rejected,
    Reply,
    Unavailable,
)

_CHILD = "the picture decoder"
_MODULE = "pipeline.image"
_ENVIRONMENT = (
    "I2VD_PICTURE_MEMORY",
    "I2VD_PICTURE_PIXELS",
    # where Python and its libraries are; mostly unset
    "LD_LIBRARY_PATH",
    "PYTHONHOME",
    "PYTHONPATH",
)
"""Variables that a child gets. The others may hold the queue's password."""

Answer = TypeVar("Answer", Inspected, Prepared)


class ImageLane:
    """Starts the child with the first picture, or earlier by `start`."""

    def __init__(
        self, on_line: Callable[[str], None], on_failure: Callable[[ChildFailure], None]
    ) -> None:
        self._on_line = on_line
        self._on_failure = on_failure
        self._child: Child | None = None
        self._hello = Hello()
        self._lock = asyncio.Lock()
        self._kills_seen = oom_kills()

    async def start(self) -> Hello | ChildFailure:
        """Start a child if there is none; return its first message or its failure."""
        async with self._lock:
            match await self._started():
                case Child():
                    return self._hello
                case end:
                    return await self._discard(end, "start")

    async def ask(
        self,
        request: Inspect | Prepare,
        descriptors: Sequence[int],
        answer: type[Answer],
        limit: float,
    ) -> Answer | Rejected | Unavailable | ChildFailure:
        """Return the child's `answer` or refusal within `limit` seconds, or its failure."""
        async with self._lock:
            await self._discard_interrupted()
            child = await self._started()
            if not isinstance(child, Child):
                return await self._discard(child, "start")
            child.limit_cpu(limit)
            await child.send(request, descriptors)
            match await child.receive(limit):
                case (Exited() | TimedOut()) as end:
                    return await self._discard(end, "reading it")
                case reply if isinstance(reply, (answer, Rejected, Unavailable)):
                    return reply
                case other:
                    return await self._discard(_out_of_turn(other), "reading it")

    async def close(self) -> None:
        """End the child, which frees its memory."""
        async with self._lock:
            if self._child is not None:
                child, self._child = self._child, None
                await child.close()

    async def _started(self) -> Child | Exited | TimedOut:
        """Return the child, started if there is none."""
        if self._child is None:
            env = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
            self._child = await Child.spawn(_MODULE, self._on_line, env)
            match await self._child.receive(HEARTBEAT_TIMEOUTS["start"]):
                case Hello() as hello:
                    self._hello = hello
                case (Exited() | TimedOut()) as end:
                    return end
                case other:
                    return _out_of_turn(other)
        return self._child

    async def _discard_interrupted(self) -> None:
        """Discard a child that ended or spoke while it was idle: no picture is to blame."""
        if self._child is not None and not await self._child.is_idle():
            end: Exited | TimedOut = Exited("spoke without being asked")
            if self._child.ended:
                match await self._child.receive(HEARTBEAT_TIMEOUTS["start"]):
                    case (Exited() | TimedOut()) as end:
                        pass
            await self._discard(end, "no work")
        self._kills_seen = oom_kills()

    async def _discard(self, end: Exited | TimedOut, stage: str) -> ChildFailure:
        oom_killed = oom_kills() > self._kills_seen
        failure = classify_exit(_CHILD, end, stage, oom_killed=oom_killed)
        if self._child is not None:
            child, self._child = self._child, None
            await child.kill(grace=1.0)
            self._on_failure(failure)
        return failure


def _out_of_turn(reply: Reply) -> Exited:
    return Exited(f"answered out of turn ({reply.type})")
