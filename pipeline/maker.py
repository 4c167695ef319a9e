"""The maker: owns one worker child on one device, and walks a clip down the ladder.

The child says what happened; every decision (next rung, new child, give up) is made here, so that
it survives a child that the kernel shot.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.client import Child, Died, Silent
from pipeline.ladder import Rung
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
)
from pipeline.spec import Spec


@dataclass(frozen=True)
class Order:
    """What is to be made: `picture` is the clean PNG, `staging` an empty private folder."""

    job: str
    spec: Spec
    ladder: tuple[Rung, ...]
    picture: Path
    staging: Path


@dataclass(frozen=True)
class StepDown:
    """Memory ran out on `rung` in `stage`; the next rung was tried."""

    rung: Rung
    stage: Stage
    detail: str


@dataclass(frozen=True)
class Clip:
    """A clip in staging: what was made, by which model, on which rung, and the steps down."""

    made: Made
    loaded: Loaded
    rung: Rung
    steps_down: tuple[StepDown, ...]


Kind = Literal["failed", "died", "hung", "load", "memory", "disk", "cancelled"]


@dataclass(frozen=True)
class NoClip:
    """Why there is none; `died` when the child was lost over it, `retry` when a retry may help."""

    kind: Kind
    reason: str
    retry: bool

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
        steps_down: list[StepDown] = []
        for rung in order.ladder:
            if self._cancelled:  # while the model was loading, or between two rungs
                return NoClip("cancelled", "cancelled", retry=False)
            answer = await self._try(order, rung, report)
            match answer:
                case Made():
                    return Clip(answer, loaded, rung, tuple(steps_down))
                case OutOfMemory():
                    steps_down.append(StepDown(rung, answer.stage, answer.detail))
                    report(steps_down[-1])
                case Failed():
                    kind: Kind = "disk" if answer.disk else "failed"
                    return NoClip(kind, f"{answer.reason} (in {answer.stage})", answer.retry)
                case Cancelled():
                    return NoClip("cancelled", "cancelled", retry=False)
                case NoClip():
                    return answer
                case other:
                    return await self._out_of_turn(other)
        last = steps_down[-1]
        hint = "choose a smaller preset, or free the device's memory"
        return NoClip(
            "memory", f"out of memory at {last.rung}, the last rung ({last.detail}); {hint}", False
        )

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
