"""The decoder: owns the picture child, and replaces it when a picture ends it."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from pipeline.client import Child, Died, Silent
from pipeline.loss import Loss, oom_kills, tell_apart
from pipeline.protocol import (
    SILENCE,
    Failed,
    Hello,
    Inspect,
    Inspected,
    Prepare,
    Prepared,
    Rejected,
)
from pipeline.spec import Spec

_WHO = "the picture decoder"
_LIMIT = 60.0
"""Seconds that one picture may take."""
_TRIES = 2
"""A child may be shot by accident once; a picture that ends two children is the cause."""


class Decoder:
    """Looks at pictures and prepares them, one at a time, in a child without a GPU."""

    def __init__(self, on_line: Callable[[str], None], on_loss: Callable[[Loss], None]) -> None:
        self._on_line = on_line
        self._on_loss = on_loss
        self._child: Child | None = None
        self._turn = asyncio.Lock()

    async def inspect(self, path: Path, within: Path | None = None) -> Inspected | Rejected:
        """Decode the file to its end and say what it is.

        In a folder to which strangers have access, `within`, no link is followed.
        """
        answer = await self._ask(Inspect(path=str(path), within=str(within or "")))
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

    async def shrink(
        self, path: Path, sha256: str, side: int, output: Path, within: Path
    ) -> Prepared | Rejected:
        """Write the whole picture into a square of `side` pixels, as a clean PNG to `output`.

        `within` as for `inspect`. Raises OSError when there is no place for it.
        """
        return await self._prepare(
            Prepare(
                path=str(path),
                within=str(within),
                sha256=sha256,
                width=side,
                height=side,
                framing="fit",
                output=str(output),
            )
        )

    async def _prepare(self, request: Prepare) -> Prepared | Rejected:
        answer = await self._ask(request)
        if isinstance(answer, Failed):
            raise OSError(f"{request.output}: {answer.reason}")
        assert isinstance(answer, (Prepared, Rejected))
        return answer

    async def close(self) -> None:
        """End the child."""
        if self._child is not None:
            await self._child.close()
            self._child = None

    async def _ask(self, request: Inspect | Prepare) -> Inspected | Prepared | Rejected | Failed:
        async with self._turn:
            why = ""
            for _ in range(_TRIES):
                shot_before = oom_kills()
                match await self._exchange(request):
                    case Inspected() | Prepared() | Rejected() | Failed() as answer:
                        return answer
                    case (Died() | Silent()) as end:
                        shot = oom_kills() > shot_before
                        loss = tell_apart(_WHO, end, "reading it", oom_killed=shot)
                        why = loss.reason
                        await self._bury(loss)
            return Rejected(reason=f"{why}, {_TRIES} times")

    async def _exchange(
        self, request: Inspect | Prepare
    ) -> Inspected | Prepared | Rejected | Failed | Died | Silent:
        if self._child is None:
            self._child = await Child.spawn("pipeline.picture", self._on_line)
            hello = await self._child.receive(SILENCE["start"])
            if not isinstance(hello, Hello):
                return hello if isinstance(hello, (Died, Silent)) else Died("did not say hello")
        await self._child.send(request)
        match await self._child.receive(_LIMIT):
            case (Inspected() | Prepared() | Rejected() | Failed() | Died() | Silent()) as answer:
                return answer
            case other:
                return Died(f"answered out of turn ({other.type})")

    async def _bury(self, loss: Loss) -> None:
        if self._child is not None:
            await self._child.kill(grace=1.0)
            self._child = None
            self._on_loss(loss)
