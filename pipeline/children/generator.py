"""The maker: has clips made on one device, and walks each down the ladder.

The child says what happened; every decision (next rung, new child, give up) is made here, so that
it survives a child that the kernel shot. Clips take turns on the device; while one has it, the MP4
of the one before is written, and prompts and picture of the next are embedded.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.children.exit_reasons import Loss, fragmentation, leak, oom_kills
from pipeline.children.generation import Clip, Kind, NoClip, Order, StepDown
from pipeline.children.protocol import (
    Cancelled,
    Dtype,
    Embed,
    Failed,
    Filmed,
    Load,
    Loaded,
    Made,
    Make,
    OutOfMemory,
    Progress,
    Released,
    Spoilt,
    Stage,
)
from pipeline.children.supervisor import ENDED, Supervisor
from pipeline.children.worker_session import Session
from pipeline.memory.ladder import first_that_fits
from pipeline.memory.modes import Rung
from pipeline.quality import Limits


@dataclass(frozen=True)
class _Taken:
    """A clip that was filmed in a session, on which rung, and the steps down to it."""

    session: Session
    loaded: Loaded
    rung: Rung
    steps_down: tuple[StepDown, ...]


@dataclass(frozen=True)
class _Refused:
    """The gate's refusal, on which rung, and the steps down to it."""

    spoilt: Spoilt
    rung: Rung
    steps_down: tuple[StepDown, ...]


@dataclass
class _Hand:
    """A clip in hand: how far it is, and what was asked of it meanwhile."""

    begun: bool = False
    filmed: bool = False
    session: Session | None = None
    cancelled: bool = False
    ended: bool = False


Report = Callable[[Progress | Loaded | StepDown | Spoilt], None]

_SAFER: dict[Dtype, Dtype] = {"float16": "bfloat16", "bfloat16": "float32", "float32": "float32"}
"""What a clip is made in when the gate refused it: the range that float16 lacks costs no memory."""

_EMBEDDING = 500_000_000
"""Bytes that must be left over for the next clip's embeddings to be made beside one: the published
encoders take 0.15 GB at a time, and CUDA some work space."""

_CANCELLED = NoClip("cancelled", "cancelled", retry=False)


class Maker:
    """Of one device, with a worker child that is started when first needed.

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
        self._limits = limits or Limits()
        self._supervisor = Supervisor(
            load,
            on_line,
            on_loss,
            silence=silence or {},
            env=env,
            module=module,
            count_oom_kills=count_oom_kills,
        )
        self._left_over: int | None = 0
        self._device = asyncio.Lock()
        self._hands: dict[str, _Hand] = {}

    @property
    def dtype(self) -> Dtype:
        """The type in which the model is asked for."""
        return self._supervisor.dtype

    @property
    def loaded(self) -> Loaded | None:
        """The model that the child has, if there is one."""
        return self._supervisor.loaded

    @property
    def pid(self) -> int | None:
        """Process id of the child, if there is one."""
        session = self._supervisor.session
        return session.pid if session else None

    async def make(self, order: Order, report: Report) -> Clip | NoClip:
        """Make one clip, from the first rung of the ladder down to the last if it must.

        It waits for its turn on the device. When the gate refuses it, it is made once more on the
        same rung, with another seed, exactly, and in a safer type.
        """
        hand = self._hands[order.job] = _Hand()
        try:
            outcome = await self._make(order, hand, report)
        finally:
            del self._hands[order.job]
        return ENDED if hand.ended and isinstance(outcome, NoClip) else outcome

    async def cancel(self, job: str) -> None:
        """Ask the child to give up a clip at its next step; one that waits is given up too."""
        hand = self._hands.get(job)
        if hand is not None and not hand.cancelled:
            hand.cancelled = True
            if hand.session is not None:
                await hand.session.cancel(job)

    def withdraw(self, job: str) -> None:
        """Do not begin with a clip that still waits for its turn; `make` then says "ended"."""
        hand = self._hands.get(job)
        if hand is not None and not hand.begun:
            hand.ended = True

    async def kill(self, job: str) -> None:
        """End a clip now, by ending the child if it is on the device; `make` then says so."""
        hand = self._hands.get(job)
        if hand is None:
            return
        hand.ended = True
        if hand.session is not None and hand.filmed:
            hand.session.abandon(job)
        elif hand.begun:
            await self._supervisor.kill()

    async def close(self) -> None:
        """End an idle child."""
        await self._supervisor.close()

    async def _make(self, order: Order, hand: _Hand, report: Report) -> Clip | NoClip:
        first = await self._try(order, None, hand, report)
        if not isinstance(first, _Refused):
            return first
        changes = {"seed": another_seed(order.spec.seed), "speed": "exact"}
        spec = order.spec.model_copy(update=changes)
        rest = order.ladder[order.ladder.index(first.rung) :]
        again = replace(order, spec=spec, ladder=rest)
        match await self._try(again, _SAFER[self.dtype], hand, report):
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

    async def _try(
        self, order: Order, dtype: Dtype | None, hand: _Hand, report: Report
    ) -> Clip | NoClip | _Refused:
        """Film the clip when the device is free, then leave it to the next."""
        if self._device.locked():
            await self._embed(order)
        async with self._device:
            hand.begun, hand.filmed = True, False
            taken = await self._descend(order, dtype, hand, report)
        if not isinstance(taken, _Taken):
            return taken
        match await taken.session.finish(order.job, report):
            case Made() as made:
                seed, speed = order.spec.seed, order.spec.speed
                return Clip(made, taken.loaded, taken.rung, seed, speed, taken.steps_down)
            case Spoilt() as spoilt:
                report(spoilt)
                return _Refused(spoilt, taken.rung, taken.steps_down)
            case other:
                return await self._no_clip(other, taken.session)

    async def _embed(self, order: Order) -> None:
        """Have a clip's embeddings made while another is on the device, if there is room."""
        session, left_over = self._supervisor.session, self._left_over
        if session is None or session.loaded is None:
            return
        if left_over is None or left_over >= _EMBEDDING:
            first = order.ladder[0]
            await session.embed(
                Embed(
                    job=order.job,
                    spec=order.spec,
                    width=first.width,
                    height=first.height,
                    picture=str(order.picture),
                )
            )

    async def _descend(
        self, order: Order, dtype: Dtype | None, hand: _Hand, report: Report
    ) -> _Taken | NoClip | _Refused:
        room = await self._supervisor.room(dtype, report)
        if isinstance(room, NoClip):
            return room
        steps_down = _skipped(order, self.loaded, room)
        for step in steps_down:
            report(step)
        mended = False
        while len(steps_down) < len(order.ladder):
            # the last try may have cost the child
            session = await self._supervisor.ready(dtype, report)
            if isinstance(session, NoClip):
                return session
            if hand.ended:
                return ENDED
            if hand.cancelled:  # while it waited, the model was loading, or between two rungs
                return _CANCELLED
            assert session.loaded is not None
            since = time.monotonic()
            rung = order.ladder[len(steps_down)]
            self._left_over = _left_over(order, rung, session.loaded, room, steps_down)
            hand.session = session
            answer = await session.film(self._made_of(order, rung), report)
            if isinstance(answer, Released) and (loss := leak(answer)):
                await self._supervisor.replace(session, loss)
            match answer:
                case Filmed():
                    hand.filmed = True
                    return _Taken(session, session.loaded, rung, tuple(steps_down))
                case Spoilt():
                    report(answer)
                    return _Refused(answer, rung, tuple(steps_down))
                case OutOfMemory() if not mended and (loss := fragmentation(answer)):
                    mended = True
                    await self._supervisor.replace(session, loss)
                case OutOfMemory():
                    spent = time.monotonic() - since
                    step = StepDown(rung, answer.stage, answer.detail, round(spent, 3), room)
                    steps_down.append(step)
                    report(step)
                case other:
                    return await self._no_clip(other, session)
        last = steps_down[-1]
        reason = f"out of memory at {last.rung}, the last rung ({last.detail})"
        return NoClip("memory", reason, retry=False, room=room)

    def _made_of(self, order: Order, rung: Rung) -> Make:
        return Make(
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

    async def _no_clip(
        self, answer: Failed | Cancelled | OutOfMemory | Loss, session: Session
    ) -> NoClip:
        """What an answer means that is neither a clip nor lack of the device's memory."""
        match answer:
            case Failed():
                kind: Kind = "disk" if answer.disk else "failed"
                return NoClip(kind, f"{answer.reason} (in {answer.stage})", answer.retry)
            case OutOfMemory():
                return NoClip("failed", f"{answer.detail} (in {answer.stage})", retry=True)
            case Cancelled():
                return _CANCELLED
            case loss:
                return await self._supervisor.bury(session, loss, "lost")


def _skipped(order: Order, loaded: Loaded | None, room: int | None) -> list[StepDown]:
    """The rungs that are passed over, because they need more than there is."""
    assert loaded is not None

    def needs(rung: Rung) -> int:
        return order.needs(rung, loaded)

    def step(rung: Rung) -> StepDown:
        detail = f"needs {needs(rung) / 1e9:.2f} GB, {(room or 0) / 1e9:.2f} GB may be used"
        return StepDown(rung, "forecast", detail, room=room)

    return [step(rung) for rung in order.ladder[: first_that_fits(order.ladder, room, needs)]]


def _left_over(
    order: Order, rung: Rung, loaded: Loaded, room: int | None, steps_down: Sequence[StepDown]
) -> int | None:
    """Bytes beside a clip, as was foreseen; none once that was found wrong."""
    if any(step.stage != "forecast" for step in steps_down):
        return 0
    return None if room is None else room - order.needs(rung, loaded)


def another_seed(seed: int) -> int:
    """The seed of a second try: always the same for the same first, and far from it."""
    return random.Random(seed).randrange(2**32)
