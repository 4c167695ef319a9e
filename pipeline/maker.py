"""The maker: owns one worker child on one device, and walks a clip down the ladder.

The child says what happened; every decision (next rung, new child, give up) is made here, so that
it survives a child that the kernel shot.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.client import Child, Died, Silent
from pipeline.ladder import first_that_fits
from pipeline.mode import Rung
from pipeline.protocol import (
    SILENCE,
    Cancel,
    Cancelled,
    Failed,
    Load,
    Loaded,
    Made,
    Make,
    OutOfMemory,
    Progress,
    Reply,
    Stage,
    Survey,
    Surveyed,
)
from pipeline.spec import Spec


@dataclass(frozen=True)
class Order:
    """What is to be made: `picture` is the clean PNG, `staging` an empty private folder.

    `needs` tells the bytes that a clip needs on a rung, with the model that is loaded.
    """

    job: str
    spec: Spec
    ladder: tuple[Rung, ...]
    needs: Callable[[Rung, Loaded], int]
    picture: Path
    staging: Path


@dataclass(frozen=True)
class StepDown:
    """Memory ran out on `rung` in `stage` after so many seconds; the next rung was tried.

    Or it was not even tried, stage "forecast", for too little is free. `room` is what was free.
    """

    rung: Rung
    stage: Stage | Literal["forecast"]
    detail: str
    seconds: float = 0.0
    room: int | None = None


@dataclass(frozen=True)
class Clip:
    """A clip in staging: what was made, by which model, on which rung, and the steps down."""

    made: Made
    loaded: Loaded
    rung: Rung
    steps_down: tuple[StepDown, ...]


@dataclass(frozen=True)
class NoClip:
    """Why there is none; `died` when the child was lost over it, `retry` when a retry may help."""

    kind: Literal["failed", "died", "hung", "load", "memory", "cancelled"]
    reason: str
    retry: bool
    room: int | None = None
    """Bytes that were free, where memory was short and somebody counts them."""

    @property
    def died(self) -> bool:
        """Whether it cost a child."""
        return self.kind in ("died", "hung")


Report = Callable[[Progress | Loaded | StepDown], None]


class Maker:
    """One worker child, started when first needed and replaced when it dies."""

    def __init__(
        self,
        load: Load,
        on_line: Callable[[str], None],
        on_death: Callable[[str], None],
        env: Mapping[str, str] | None = None,
        module: str = "pipeline.worker",
    ) -> None:
        self.loaded: Loaded | None = None
        self._load = load
        self._on_line = on_line
        self._on_death = on_death
        self._env = env
        self._module = module
        self._child: Child | None = None
        self._cancelled = False
        self._killed = False

    @property
    def dtype(self) -> str:
        """The type in which the model is asked for."""
        return self._load.dtype

    @property
    def pid(self) -> int | None:
        """Process id of the child, if there is one."""
        return self._child.pid if self._child else None

    async def start(self, report: Report) -> Loaded | NoClip:
        """Have a child with the model loaded; at once when there is one already."""
        if self._child is not None and self.loaded is not None:
            return self.loaded
        self._child = await Child.spawn(self._module, self._on_line, self._env)
        hello = await self._final("start", report)
        if isinstance(hello, NoClip):
            return hello
        await self._child.send(self._load)
        loaded = await self._final("load", report)
        match loaded:
            case Loaded():
                self.loaded = loaded
                report(loaded)
                return loaded
            case Failed():
                await self._bury(f"could not load the model: {loaded.reason}")
                return NoClip("load", loaded.reason, loaded.retry)
            case Cancelled():  # a child without a model is of no use, and no loss
                await self.close()
                return NoClip("cancelled", "cancelled", retry=False)
            case NoClip():
                return loaded
            case other:
                return await self._out_of_turn(other)

    async def make(self, order: Order, report: Report) -> Clip | NoClip:
        """Make one clip, from the first rung of the ladder down to the last if it must."""
        self._cancelled = self._killed = False
        loaded = await self.start(report)
        if isinstance(loaded, NoClip):
            return loaded
        room = await self._room(report)
        if isinstance(room, NoClip):
            return room
        steps_down = _skipped(order, loaded, room)
        for step in steps_down:
            report(step)
        for rung in order.ladder[len(steps_down) :]:
            since = time.monotonic()
            if self._cancelled:  # while the model was loading, or between two rungs
                return NoClip("cancelled", "cancelled", retry=False)
            answer = await self._try(order, rung, report)
            match answer:
                case Made():
                    return Clip(answer, loaded, rung, tuple(steps_down))
                case OutOfMemory():
                    spent = time.monotonic() - since
                    step = StepDown(rung, answer.stage, answer.detail, round(spent, 3), room)
                    steps_down.append(step)
                    report(step)
                case Failed():
                    return NoClip("failed", f"{answer.reason} (in {answer.stage})", answer.retry)
                case Cancelled():
                    return NoClip("cancelled", "cancelled", retry=False)
                case NoClip():
                    return answer
                case other:
                    return await self._out_of_turn(other)
        last = steps_down[-1]
        reason = f"out of memory at {last.rung}, the last rung ({last.detail})"
        return NoClip("memory", reason, retry=False, room=room)

    async def cancel(self) -> None:
        """Ask the child to give up the clip in hand at its next step."""
        if self._child is not None and not self._cancelled:
            self._cancelled = True
            await self._child.send(Cancel())

    async def kill(self) -> None:
        """End the child now, whatever it does; `make` then says that it died."""
        if self._child is not None:
            self._killed = True
            await self._child.kill()

    async def close(self) -> None:
        """End an idle child."""
        if self._child is not None:
            child, self._child, self.loaded = self._child, None, None
            await child.close()

    async def _room(self, report: Report) -> int | NoClip | None:
        """Bytes that a clip may have now; another process may have taken or left some."""
        assert self._child is not None
        await self._child.send(Survey())
        match await self._final("encode", report):
            case Surveyed(free=free):
                return free
            case NoClip() as lost:
                return lost
            case other:
                return await self._out_of_turn(other)

    async def _try(self, order: Order, rung: Rung, report: Report) -> Reply | NoClip:
        assert self._child is not None
        await self._child.send(
            Make(
                job=order.job,
                spec=order.spec,
                mode=rung.mode,
                width=rung.width,
                height=rung.height,
                frames=rung.frames,
                picture=str(order.picture),
                staging=str(order.staging),
            )
        )
        return await self._final("encode", report)

    async def _final(self, stage: Stage, report: Report) -> Reply | NoClip:
        """The final reply to the last request; each stage has its own limit for silence."""
        while True:
            assert self._child is not None
            match await self._child.receive(SILENCE[stage]):
                case Progress() as progress:
                    stage = progress.stage
                    report(progress)
                case Died() as death:
                    reason = f"the worker {death} (in {stage})"
                    await self._bury(reason)
                    return NoClip("died", reason, retry=True)
                case Silent(seconds):
                    reason = f"the worker hung in {stage}: silent for {seconds:.0f} s"
                    await self._bury(reason)
                    return NoClip("hung", reason, retry=True)
                case reply:
                    return reply

    async def _out_of_turn(self, reply: Reply) -> NoClip:
        reason = f"the worker answered out of turn ({reply.type})"
        await self._bury(reason)
        return NoClip("died", reason, retry=True)

    async def _bury(self, why: str) -> None:
        if self._child is not None:
            child, self._child, self.loaded = self._child, None, None
            await child.kill()
            if not self._killed:  # what we ended ourselves is no loss
                self._on_death(why)


def _skipped(order: Order, loaded: Loaded, room: int | None) -> list[StepDown]:
    """The rungs that are passed over, because they need more than there is."""

    def needs(rung: Rung) -> int:
        return order.needs(rung, loaded)

    def step(rung: Rung) -> StepDown:
        detail = f"needs {needs(rung) / 1e9:.2f} GB, {(room or 0) / 1e9:.2f} GB may be used"
        return StepDown(rung, "forecast", detail, room=room)

    return [step(rung) for rung in order.ladder[: first_that_fits(order.ladder, room, needs)]]
