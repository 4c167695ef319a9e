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

from pipeline.children.exit_reasons import ChildFailure, fragmentation, leak, oom_kills
from pipeline.children.generation import Clip, GenerationFailure, GenerationRequest, Kind, StepDown
from pipeline.children.protocol import (
    Cancelled,
    ClipDone,
    Dtype,
    Embed,
    Failed,
    FramesReady,
    Generate,
    Load,
    Loaded,
    OutOfMemory,
    Progress,
    QualityRejected,
    Released,
    Stage,
)
from pipeline.children.supervisor import ENDED, Supervisor
from pipeline.children.worker_session import WorkerSession
from pipeline.memory.ladder import first_fitting
from pipeline.memory.modes import Rung
from pipeline.quality import QualityLimits


@dataclass(frozen=True)
class _LadderResult:
    """A clip that was filmed in a session, on which rung, and the steps down to it."""

    session: WorkerSession
    loaded: Loaded
    rung: Rung
    steps_down: tuple[StepDown, ...]


@dataclass(frozen=True)
class _Rejection:
    """The gate's refusal, on which rung, and the steps down to it."""

    spoilt: QualityRejected
    rung: Rung
    steps_down: tuple[StepDown, ...]


@dataclass
class _InFlight:
    """A clip in hand: how far it is, and what was asked of it meanwhile."""

    started: bool = False
    frames_ready: bool = False
    session: WorkerSession | None = None
    cancelled: bool = False
    ended: bool = False


Report = Callable[[Progress | Loaded | StepDown | QualityRejected], None]

_SAFE_DTYPES: dict[Dtype, Dtype] = {
    "float16": "bfloat16",
    "bfloat16": "float32",
    "float32": "float32",
}
"""What a clip is made in when the gate refused it: the range that float16 lacks costs no memory."""

_EMBEDDING = 500_000_000
"""Bytes that must be left over for the next clip's embeddings to be made beside one: the published
encoders take 0.15 GB at a time, and CUDA some work space."""

_CANCELLED = GenerationFailure("cancelled", "cancelled", retry=False)


class ClipGenerator:
    """Of one device, with a worker child that is started when first needed.

    `silence` overrides limits of `protocol.SILENCE`.
    """

    def __init__(
        self,
        load: Load,
        on_line: Callable[[str], None],
        on_failure: Callable[[ChildFailure], None],
        *,
        limits: QualityLimits | None = None,
        timeouts: Mapping[Stage, float] | None = None,
        env: Mapping[str, str] | None = None,
        module: str = "pipeline.worker",
        count_oom_kills: Callable[[], int] = oom_kills,
    ) -> None:
        self._limits = limits or QualityLimits()
        self._supervisor = Supervisor(
            load,
            on_line,
            on_failure,
            timeouts=timeouts or {},
            env=env,
            module=module,
            count_oom_kills=count_oom_kills,
        )
        self._left_over: int | None = 0
        self._device = asyncio.Lock()
        self._in_flight: dict[str, _InFlight] = {}

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

    async def generate(self, order: GenerationRequest, report: Report) -> Clip | GenerationFailure:
        """Make one clip, from the first rung of the ladder down to the last if it must.

        It waits for its turn on the device. When the gate refuses it, it is made once more on the
        same rung, with another seed, exactly, and in a safer type.
        """
        hand = self._in_flight[order.job] = _InFlight()
        try:
            outcome = await self._generate(order, hand, report)
        finally:
            del self._in_flight[order.job]
        return ENDED if hand.ended and isinstance(outcome, GenerationFailure) else outcome

    async def cancel(self, job: str) -> None:
        """Ask the child to give up a clip at its next step; one that waits is given up too."""
        hand = self._in_flight.get(job)
        if hand is not None and not hand.cancelled:
            hand.cancelled = True
            if hand.session is not None:
                await hand.session.cancel(job)

    def withdraw(self, job: str) -> None:
        """Do not begin with a clip that still waits for its turn; `make` then says "ended"."""
        hand = self._in_flight.get(job)
        if hand is not None and not hand.started:
            hand.ended = True

    async def kill(self, job: str) -> None:
        """End a clip now, by ending the child if it is on the device; `make` then says so."""
        hand = self._in_flight.get(job)
        if hand is None:
            return
        hand.ended = True
        if hand.session is not None and hand.frames_ready:
            hand.session.abandon(job)
        elif hand.started:
            await self._supervisor.kill()

    async def close(self) -> None:
        """End an idle child."""
        await self._supervisor.close()

    async def _generate(
        self, order: GenerationRequest, hand: _InFlight, report: Report
    ) -> Clip | GenerationFailure:
        first = await self._try(order, None, hand, report)
        if not isinstance(first, _Rejection):
            return first
        changes = {"seed": retry_seed(order.spec.seed), "speed": "exact"}
        spec = order.spec.model_copy(update=changes)
        rest = order.ladder[order.ladder.index(first.rung) :]
        again = replace(order, spec=spec, ladder=rest)
        match await self._try(again, _SAFE_DTYPES[self.dtype], hand, report):
            case Clip() as clip:
                steps_down = first.steps_down + clip.steps_down
                return replace(clip, steps_down=steps_down, refused=first.spoilt.reason)
            case _Rejection(spoilt):
                why = f"no clip came out in two tries: {first.spoilt.reason}; then {spoilt.reason}"
                return GenerationFailure("spoilt", why, retry=False)
            case GenerationFailure(
                kind="load", reason=reason
            ):  # the usual type loads, so this is counted
                return GenerationFailure(
                    "failed", f"{first.spoilt.reason}; then {reason}", retry=True
                )
            case no_clip:
                return no_clip

    async def _try(
        self, order: GenerationRequest, dtype: Dtype | None, hand: _InFlight, report: Report
    ) -> Clip | GenerationFailure | _Rejection:
        """Film the clip when the device is free, then leave it to the next."""
        if self._device.locked():
            await self._embed(order)
        async with self._device:
            hand.started, hand.frames_ready = True, False
            taken = await self._walk_ladder(order, dtype, hand, report)
        if not isinstance(taken, _LadderResult):
            return taken
        match await taken.session.finish(order.job, report):
            case ClipDone() as made:
                seed, speed = order.spec.seed, order.spec.speed
                return Clip(made, taken.loaded, taken.rung, seed, speed, taken.steps_down)
            case QualityRejected() as spoilt:
                report(spoilt)
                return _Rejection(spoilt, taken.rung, taken.steps_down)
            case other:
                return await self._failure(other, taken.session)

    async def _embed(self, order: GenerationRequest) -> None:
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

    async def _walk_ladder(
        self, order: GenerationRequest, dtype: Dtype | None, hand: _InFlight, report: Report
    ) -> _LadderResult | GenerationFailure | _Rejection:
        room = await self._supervisor.free_memory(dtype, report)
        if isinstance(room, GenerationFailure):
            return room
        steps_down = _skipped(order, self.loaded, room)
        for step in steps_down:
            report(step)
        mended = False
        while len(steps_down) < len(order.ladder):
            # the last try may have cost the child
            session = await self._supervisor.ensure_loaded(dtype, report)
            if isinstance(session, GenerationFailure):
                return session
            if hand.ended:
                return ENDED
            if hand.cancelled:  # while it waited, the model was loading, or between two rungs
                return _CANCELLED
            assert session.loaded is not None
            since = time.monotonic()
            rung = order.ladder[len(steps_down)]
            self._left_over = _memory_left_over(order, rung, session.loaded, room, steps_down)
            hand.session = session
            answer = await session.generate(self._generated(order, rung), report)
            if isinstance(answer, Released) and (loss := leak(answer)):
                await self._supervisor.replace(session, loss)
            match answer:
                case FramesReady():
                    hand.frames_ready = True
                    return _LadderResult(session, session.loaded, rung, tuple(steps_down))
                case QualityRejected():
                    report(answer)
                    return _Rejection(answer, rung, tuple(steps_down))
                case OutOfMemory() if not mended and (loss := fragmentation(answer)):
                    mended = True
                    await self._supervisor.replace(session, loss)
                case OutOfMemory():
                    spent = time.monotonic() - since
                    step = StepDown(rung, answer.stage, answer.detail, round(spent, 3), room)
                    steps_down.append(step)
                    report(step)
                case other:
                    return await self._failure(other, session)
        last = steps_down[-1]
        reason = f"out of memory at {last.rung}, the last rung ({last.detail})"
        return GenerationFailure("memory", reason, retry=False, room=room)

    def _generated(self, order: GenerationRequest, rung: Rung) -> Generate:
        return Generate(
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

    async def _failure(
        self, answer: Failed | Cancelled | OutOfMemory | ChildFailure, session: WorkerSession
    ) -> GenerationFailure:
        """What an answer means that is neither a clip nor lack of the device's memory."""
        match answer:
            case Failed():
                kind: Kind = "disk" if answer.disk else "failed"
                return GenerationFailure(kind, f"{answer.reason} (in {answer.stage})", answer.retry)
            case OutOfMemory():
                return GenerationFailure(
                    "failed", f"{answer.detail} (in {answer.stage})", retry=True
                )
            case Cancelled():
                return _CANCELLED
            case loss:
                return await self._supervisor.discard(session, loss, "lost")


def _skipped(order: GenerationRequest, loaded: Loaded | None, room: int | None) -> list[StepDown]:
    """The rungs that are passed over, because they need more than there is."""
    assert loaded is not None

    def needs(rung: Rung) -> int:
        return order.needs(rung, loaded)

    def step(rung: Rung) -> StepDown:
        detail = f"needs {needs(rung) / 1e9:.2f} GB, {(room or 0) / 1e9:.2f} GB may be used"
        return StepDown(rung, "forecast", detail, room=room)

    return [step(rung) for rung in order.ladder[: first_fitting(order.ladder, room, needs)]]


def _memory_left_over(
    order: GenerationRequest,
    rung: Rung,
    loaded: Loaded,
    room: int | None,
    steps_down: Sequence[StepDown],
) -> int | None:
    """Bytes beside a clip, as was foreseen; none once that was found wrong."""
    if any(step.stage != "forecast" for step in steps_down):
        return 0
    return None if room is None else room - order.needs(rung, loaded)


def retry_seed(seed: int) -> int:
    """The seed of a second try: always the same for the same first, and far from it."""
    return random.Random(seed).randrange(2**32)
