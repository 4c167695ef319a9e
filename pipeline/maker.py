"""The maker: owns one worker child on one device, and walks a clip down the ladder.

The child says what happened; every decision (next rung, new child, give up) is made here, so that
it survives a child that the kernel shot.
"""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pipeline.client import Child, Died, Silent
from pipeline.gate import Limits
from pipeline.ladder import first_that_fits
from pipeline.loss import Loss, oom_kills, tell_apart
from pipeline.mode import Rung
from pipeline.protocol import (
    SILENCE,
    Cancel,
    Cancelled,
    Dtype,
    Failed,
    Hello,
    Load,
    Loaded,
    Made,
    Make,
    OutOfMemory,
    Progress,
    Reply,
    Spoilt,
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
    """A clip in staging: what was made, by which model, on which rung, and the steps down.

    `refused` says why the gate refused the first try; `seed` is then another than asked.
    """

    made: Made
    loaded: Loaded
    rung: Rung
    seed: int
    steps_down: tuple[StepDown, ...]
    refused: str | None = None


Kind = Literal["failed", "spoilt", "lost", "load", "memory", "disk", "cancelled", "ended"]


@dataclass(frozen=True)
class NoClip:
    """Why there is none; `retry` when another try may help.

    "spoilt": the gate refused two tries, and the last may lie in staging; "lost": the child was,
    over this clip; "load": there was none with a model in it, which is no fault of this clip's;
    "disk": its folder could not be written, which is none either; "ended": by our own `kill`.
    """

    kind: Kind
    reason: str
    retry: bool
    room: int | None = None
    """Bytes that were free, where memory was short and somebody counts them."""


@dataclass(frozen=True)
class _Refused:
    """The gate's refusal, on which rung, and the steps down to it."""

    spoilt: Spoilt
    rung: Rung
    steps_down: tuple[StepDown, ...]


Report = Callable[[Progress | Loaded | StepDown | Spoilt], None]

_SAFER: dict[Dtype, Dtype] = {"float16": "bfloat16", "bfloat16": "float32", "float32": "float32"}
"""What a clip is made in when the gate refused it: the range that float16 lacks costs no memory."""

_CANCELLED = NoClip("cancelled", "cancelled", retry=False)
_WHO = "the worker"


class Maker:
    """One worker child, started when first needed and replaced when it dies.

    `silence` overrides limits of `protocol.SILENCE`.
    """

    def __init__(
        self,
        load: Load,
        on_line: Callable[[str], None],
        on_loss: Callable[[Loss], None],
        *,
        limits: Limits | None = None,
        silence: Mapping[Stage, float] | None = None,
        env: Mapping[str, str] | None = None,
        module: str = "pipeline.worker",
        count_oom_kills: Callable[[], int] = oom_kills,
    ) -> None:
        self.loaded: Loaded | None = None
        self._load = load
        self._on_line = on_line
        self._on_loss = on_loss
        self._limits = limits or Limits()
        self._silence = {**SILENCE, **(silence or {})}
        self._env = env
        self._module = module
        self._count_oom_kills = count_oom_kills
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

    async def start(self, report: Report, dtype: Dtype | None = None) -> Loaded | NoClip:
        """Have a child with the model loaded; at once when there is one already.

        In another type than usual only where `dtype` says so.
        """
        load = self._load.model_copy(update={"dtype": dtype or self._load.dtype})
        if self._child is not None and not self._child.alive:
            await self._mourn()
        if self._child is not None and self.loaded and self.loaded.dtype == load.dtype:
            return self.loaded
        answer: Reply | Loss = Hello()
        if self._child is None:
            self._killed = False
            self._child = await Child.spawn(self._module, self._on_line, self._env)
            answer = await self._final("start", report)
        if isinstance(answer, Hello):
            await self._child.send(load)
            answer = await self._final("load", report)
        match answer:
            case Loaded():
                self.loaded = answer
                report(answer)
                return answer
            case Failed():
                loss = Loss("load", f"the model does not load: {answer.reason}")
            case Cancelled():  # a child without a model is of no use, and no loss
                await self.close()
                return _CANCELLED
            case Loss():
                loss = answer
            case other:
                loss = _out_of_turn(other)
        return await self._bury(loss, "load")

    async def make(self, order: Order, report: Report) -> Clip | NoClip:
        """Make one clip, from the first rung of the ladder down to the last if it must.

        When the gate refuses it, once more on the same rung, with another seed and in a safer type.
        """
        self._cancelled = False
        first = await self._descend(order, None, report)
        if not isinstance(first, _Refused):
            return first
        spec = order.spec.model_copy(update={"seed": another_seed(order.spec.seed)})
        rest = order.ladder[order.ladder.index(first.rung) :]
        again = replace(order, spec=spec, ladder=rest)
        match await self._descend(again, _SAFER[self._load.dtype], report):
            case Clip() as clip:
                steps_down = first.steps_down + clip.steps_down
                return replace(clip, steps_down=steps_down, refused=first.spoilt.reason)
            case _Refused(spoilt):
                why = f"no clip came out in two tries: {first.spoilt.reason}; then {spoilt.reason}"
                return NoClip("spoilt", why, retry=False)
            case NoClip(kind="load", reason=reason):  # the usual type loads, so this is counted
                return NoClip("failed", f"{first.spoilt.reason}; then {reason}", retry=True)
            case no_clip:
                return no_clip

    async def _descend(
        self, order: Order, dtype: Dtype | None, report: Report
    ) -> Clip | NoClip | _Refused:
        loaded = await self.start(report, dtype)
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
                return _CANCELLED
            answer = await self._try(order, rung, report)
            match answer:
                case Made():
                    return Clip(answer, loaded, rung, order.spec.seed, tuple(steps_down))
                case Spoilt():
                    report(answer)
                    return _Refused(answer, rung, tuple(steps_down))
                case OutOfMemory():
                    spent = time.monotonic() - since
                    step = StepDown(rung, answer.stage, answer.detail, round(spent, 3), room)
                    steps_down.append(step)
                    report(step)
                case Failed():
                    kind: Kind = "disk" if answer.disk else "failed"
                    return NoClip(kind, f"{answer.reason} (in {answer.stage})", answer.retry)
                case Cancelled():
                    return _CANCELLED
                case Loss():
                    return await self._bury(answer, "lost")
                case other:
                    return await self._bury(_out_of_turn(other), "lost")
        last = steps_down[-1]
        reason = f"out of memory at {last.rung}, the last rung ({last.detail})"
        return NoClip("memory", reason, retry=False, room=room)

    async def cancel(self) -> None:
        """Ask the child to give up the clip in hand at its next step."""
        if self._child is not None and not self._cancelled:
            self._cancelled = True
            await self._child.send(Cancel())

    async def kill(self) -> None:
        """End the child now, whatever it does; `make` then says so."""
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
            case Loss() as loss:
                return await self._bury(loss, "lost")
            case Cancelled():
                return _CANCELLED
            case other:
                return await self._bury(_out_of_turn(other), "lost")

    async def _try(self, order: Order, rung: Rung, report: Report) -> Reply | Loss:
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
                limits=self._limits,
            )
        )
        return await self._final("encode", report)

    async def _final(self, stage: Stage, report: Report) -> Reply | Loss:
        """The final reply to the last request; each stage has its own limit for silence."""
        while True:
            assert self._child is not None
            shot_before = self._count_oom_kills()
            match await self._child.receive(self._silence[stage]):
                case Progress() as progress:
                    stage = progress.stage
                    report(progress)
                case (Died() | Silent()) as end:
                    oom_killed = self._count_oom_kills() > shot_before
                    return tell_apart(_WHO, end, stage, oom_killed=oom_killed)
                case reply:
                    return reply

    async def _mourn(self) -> None:
        """The child died between two clips, which is held against neither."""
        assert self._child is not None
        end = await self._child.receive(self._silence["start"])
        if isinstance(end, (Died, Silent)):
            await self._bury(tell_apart(_WHO, end, "no work", oom_killed=False), "lost")

    async def _bury(self, loss: Loss, kind: Literal["lost", "load"]) -> NoClip:
        """No trace of the child stays; what we ended ourselves is no loss."""
        assert self._child is not None
        child, self._child, self.loaded = self._child, None, None
        await child.kill()
        if self._killed:
            return NoClip("ended", "ended by us", retry=True)
        self._on_loss(loss)
        return NoClip(kind, loss.reason, retry=True)


def _skipped(order: Order, loaded: Loaded, room: int | None) -> list[StepDown]:
    """The rungs that are passed over, because they need more than there is."""

    def needs(rung: Rung) -> int:
        return order.needs(rung, loaded)

    def step(rung: Rung) -> StepDown:
        detail = f"needs {needs(rung) / 1e9:.2f} GB, {(room or 0) / 1e9:.2f} GB may be used"
        return StepDown(rung, "forecast", detail, room=room)

    return [step(rung) for rung in order.ladder[: first_that_fits(order.ladder, room, needs)]]


def another_seed(seed: int) -> int:
    """The seed of a second try: always the same for the same first, and far from it."""
    return random.Random(seed).randrange(2**32)


def _out_of_turn(reply: Reply) -> Loss:
    return Loss("channel", f"{_WHO} answered out of turn ({reply.type})")
