"""The decoder: owns the picture children, and replaces one when a picture ends it."""

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
)
from pipeline.request.spec import Spec

_WHO = "the picture decoder"
_QUICK_SECONDS = 5.0
"""Seconds that one picture may hold up the others."""
_LIMIT_SECONDS = 60.0
"""Seconds that one picture may take where it holds up nobody."""

Answer = Inspected | Prepared | Rejected | Failed


class PoisonImage(Rejected):
    """A picture that ended two children, or held up both for too long: no copy looks like that."""


class _Lane:
    """One child, and the pictures that wait for it in a row."""

    def __init__(
        self, on_line: Callable[[str], None], on_failure: Callable[[ChildFailure], None]
    ) -> None:
        self._on_line = on_line
        self._on_failure = on_failure
        self._child: Child | None = None
        self._turn = asyncio.Lock()

    async def ask(
        self, request: Inspect | Prepare, limit: float, *, last: bool = False
    ) -> Answer | ChildFailure:
        """The child's answer, or what the picture did to the child, which is replaced.

        After the `last` request for now the child leaves, and with it its memory.
        """
        async with self._turn:
            shot_before = oom_kills()
            match await self._exchange(request, limit):
                case (Exited() | TimedOut()) as end:
                    shot = oom_kills() > shot_before
                    loss = classify_exit(_WHO, end, "reading it", oom_killed=shot)
                    await self._discard(loss)
                    return loss
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
                Inspected() | Prepared() | Rejected() | Failed() | Exited() | TimedOut()
            ) as answer:
                return answer
            case other:
                return Exited(f"answered out of turn ({other.type})")

    async def _discard(self, loss: ChildFailure) -> None:
        if self._child is not None:
            await self._child.kill(grace=1.0)
            self._child = None
            self._on_failure(loss)


class ImagePool:
    """Looks at pictures and prepares them in children without a GPU.

    A child may be lost by accident once, and a large picture may take long on a slow machine. So
    what does not end well and soon is asked once more, of a second child, which is there for such
    pictures only, and only as long: the others never wait for them.
    """

    def __init__(
        self, on_line: Callable[[str], None], on_failure: Callable[[ChildFailure], None]
    ) -> None:
        self._quick = _Lane(on_line, on_failure)
        self._patient = _Lane(on_line, on_failure)

    async def inspect(self, path: Path, within: Path | None = None) -> Inspected | Rejected:
        """Decode the file to its end and say what it is.

        In a folder to which strangers have access, `within`, no link is followed.
        """
        return await self.inspect_quickly(path, within) or await self.inspect_slowly(path, within)

    async def inspect_quickly(
        self, path: Path, within: Path | None = None
    ) -> Inspected | Rejected | None:
        """The same, but None when it did not end well and soon: ask `study` then."""
        request = Inspect(path=str(path), within=str(within or ""))
        answer = await self._quick.ask(request, _QUICK_SECONDS)
        if isinstance(answer, ChildFailure):
            return None
        assert isinstance(answer, (Inspected, Rejected))
        return answer

    async def inspect_slowly(self, path: Path, within: Path | None = None) -> Inspected | Rejected:
        """The second and last look at a picture that needs it."""
        answer = await self._study(Inspect(path=str(path), within=str(within or "")))
        assert isinstance(answer, (Inspected, Rejected))
        return answer

    async def prepare(
        self, path: Path, sha256: str, spec: Spec, output: Path, within: Path | None = None
    ) -> Prepared | Rejected:
        """Write the picture, framed as the Spec says, as a clean PNG to `output`.

        `within` as for `inspect`. Raises OSError when there is no place for it.
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
    ) -> Prepared | Rejected:
        """Write the whole picture in a size, (width, height), as a clean PNG to `output`.

        `within` as for `inspect`. Raises OSError when there is no place for it.
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

    async def _prepare(self, request: Prepare) -> Prepared | Rejected:
        answer = await self._quick.ask(request, _QUICK_SECONDS)
        if isinstance(answer, ChildFailure):
            answer = await self._study(request)
        if isinstance(answer, Failed):
            raise OSError(f"{request.output}: {answer.reason}")
        assert isinstance(answer, (Prepared, Rejected))
        return answer

    async def _study(self, request: Inspect | Prepare) -> Answer:
        answer = await self._patient.ask(request, _LIMIT_SECONDS, last=True)
        return (
            PoisonImage(reason=f"{answer.reason}, 2 times")
            if isinstance(answer, ChildFailure)
            else answer
        )

    async def close(self) -> None:
        """End the children."""
        await self._quick.close()
        await self._patient.close()
