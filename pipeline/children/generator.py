"""Clip generator: generates clips on one device and walks each down the ladder.

The child only reports. Every decision (next rung, new child, failure) is made here, so that it
survives a child that the OOM killer ended. Clips take turns on the device. While one has it, the
previous one's MP4 is encoded and the next one's prompts and picture are embedded.
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
    """Clip whose frames are ready: its session and rung, and the steps down to it."""

    session: WorkerSession
    loaded: Loaded
    rung: Rung
    steps_down: tuple[StepDown, ...]


@dataclass(frozen=True)
class _Rejection:
    """Rejection by the quality check: its rung, and the steps down to it."""

    rejected: QualityRejected
    rung: Rung
    steps_down: tuple[StepDown, ...]


@dataclass
class _InFlight:
    """Clip in progress: how far it is, and pending cancel or stop requests."""

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
"""Type of the second try after a quality rejection: more range than float16, as much memory."""

_EMBEDDING_BYTES = 500_000_000
"""Free bytes required to embed the next clip beside a running one: the published encoders need
0.15 GB at a time, and CUDA some workspace."""

_CANCELLED = GenerationFailure("cancelled", "cancelled", retry=False)


class ClipGenerator:
    """Generates the clips of one device in a worker child, started when first needed.

    `timeouts` (seconds) overrides entries of `protocol.HEARTBEAT_TIMEOUTS`.
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
        """Configured type of the model's weights."""
        return self._supervisor.dtype

    @property
    def loaded(self) -> Loaded | None:
        """Model loaded in the child, or None."""
        return self._supervisor.loaded

    @property
    def pid(self) -> int | None:
        """Process id of the child, or None."""
        session = self._supervisor.session
        return session.pid if session else None

    async def generate(
        self, request: GenerationRequest, report: Report
    ) -> Clip | GenerationFailure:
        """Generate one clip: wait for the device, then walk down the ladder as far as necessary.

        If the quality check rejects the clip, it is generated once more on the same rung, with
        another seed, at speed "exact" and in a safer type.
        """
        in_flight = self._in_flight[request.job] = _InFlight()
        try:
            outcome = await self._generate(request, in_flight, report)
        finally:
            del self._in_flight[request.job]
        if not isinstance(outcome, GenerationFailure):
            return outcome
        if in_flight.cancelled and outcome.kind == "ended":
            return _CANCELLED
        return ENDED if in_flight.ended else outcome

    async def cancel(self, job: str) -> None:
        """Cancel a clip at its next step, or before it starts.

        Called again while the child that has the clip stands still, it ends the child.
        """
        in_flight = self._in_flight.get(job)
        if in_flight is None:
            return
        session = self._supervisor.session
        if not in_flight.cancelled:
            in_flight.cancelled = True
            if in_flight.session is not None:
                await in_flight.session.cancel(job)
        elif in_flight.started and session is not None and session.is_stopped:
            await self._supervisor.kill()

    def withdraw(self, job: str) -> None:
        """End a clip that still waits for the device; `generate` then returns kind "ended"."""
        in_flight = self._in_flight.get(job)
        if in_flight is not None and not in_flight.started:
            in_flight.ended = True

    async def kill(self, job: str) -> None:
        """End a clip now, with the child if it is on the device; `generate` returns "ended"."""
        in_flight = self._in_flight.get(job)
        if in_flight is None:
            return
        in_flight.ended = True
        if in_flight.session is not None and in_flight.frames_ready:
            in_flight.session.abandon(job)
        elif in_flight.started:
            await self._supervisor.kill()

    async def kill_child(self) -> None:
        """End the child now, and each clip that it has begun; `generate` returns "ended"."""
        for in_flight in self._in_flight.values():
            in_flight.ended |= in_flight.started
        await self._supervisor.kill()

    async def close(self) -> None:
        """End an idle child."""
        await self._supervisor.close()

    async def _generate(
        self, request: GenerationRequest, in_flight: _InFlight, report: Report
    ) -> Clip | GenerationFailure:
        first = await self._try(request, None, in_flight, report)
        if not isinstance(first, _Rejection):
            return first
        changes = {"seed": retry_seed(request.spec.seed), "speed": "exact"}
        spec = request.spec.model_copy(update=changes)
        rest = request.ladder[request.ladder.index(first.rung) :]
        again = replace(request, spec=spec, ladder=rest)
        match await self._try(again, _SAFE_DTYPES[self.dtype], in_flight, report):
            case Clip() as clip:
                steps_down = first.steps_down + clip.steps_down
                return replace(clip, steps_down=steps_down, refused=first.rejected.reason)
            case _Rejection(rejected):
                reason = (
                    "no clip came out in two tries: "
                    f"{first.rejected.reason}; then {rejected.reason}"
                )
                return GenerationFailure("quality", reason, retry=False)
            # the configured type did load, so this counts as a failed try
            case GenerationFailure(kind="load", reason=reason):
                return GenerationFailure(
                    "failed", f"{first.rejected.reason}; then {reason}", retry=True
                )
            case no_clip:
                return no_clip

    async def _try(
        self, request: GenerationRequest, dtype: Dtype | None, in_flight: _InFlight, report: Report
    ) -> Clip | GenerationFailure | _Rejection:
        """Generate the frames when the device is free, release it, then await the MP4."""
        if self._device.locked():
            await self._embed(request)
        async with self._device:
            in_flight.started, in_flight.frames_ready = True, False
            result = await self._walk_ladder(request, dtype, in_flight, report)
        if not isinstance(result, _LadderResult):
            return result
        match await result.session.finish(request.job, report):
            case ClipDone() as done:
                seed, speed = request.spec.seed, request.spec.speed
                return Clip(done, result.loaded, result.rung, seed, speed, result.steps_down)
            case QualityRejected() as rejected:
                report(rejected)
                return _Rejection(rejected, result.rung, result.steps_down)
            case other:
                return await self._failure(other, result.session)

    async def _embed(self, request: GenerationRequest) -> None:
        """Embed a clip's prompts and picture beside the running clip if memory allows."""
        session, left_over = self._supervisor.session, self._left_over
        if session is None or session.loaded is None:
            return
        if left_over is None or left_over >= _EMBEDDING_BYTES:
            first = request.ladder[0]
            await session.embed(
                Embed(
                    job=request.job,
                    spec=request.spec,
                    width=first.width,
                    height=first.height,
                    picture=str(request.picture),
                )
            )

    async def _walk_ladder(
        self, request: GenerationRequest, dtype: Dtype | None, in_flight: _InFlight, report: Report
    ) -> _LadderResult | GenerationFailure | _Rejection:
        free = await self._supervisor.free_memory(dtype, report)
        if isinstance(free, GenerationFailure):
            return free
        steps_down = _skipped(request, self.loaded, free)
        for step in steps_down:
            report(step)
        defragmented = False
        while len(steps_down) < len(request.ladder):
            # the previous rung may have ended the child
            session = await self._supervisor.ensure_loaded(dtype, report)
            if isinstance(session, GenerationFailure):
                return session
            if in_flight.ended:
                return ENDED
            if in_flight.cancelled:  # while it waited, the model was loading, or between two rungs
                return _CANCELLED
            assert session.loaded is not None
            since = time.monotonic()
            rung = request.ladder[len(steps_down)]
            self._left_over = _memory_left_over(request, rung, session.loaded, free, steps_down)
            in_flight.session = session
            answer = await session.generate(self._generate_message(request, rung), report)
            if isinstance(answer, Released) and (failure := leak(answer)):
                await self._supervisor.replace(session, failure)
            match answer:
                case FramesReady():
                    in_flight.frames_ready = True
                    return _LadderResult(session, session.loaded, rung, tuple(steps_down))
                case QualityRejected():
                    report(answer)
                    return _Rejection(answer, rung, tuple(steps_down))
                case OutOfMemory() if not defragmented and (failure := fragmentation(answer)):
                    defragmented = True
                    await self._supervisor.replace(session, failure)
                case OutOfMemory():
                    spent = time.monotonic() - since
                    step = StepDown(rung, answer.stage, answer.detail, round(spent, 3), free)
                    steps_down.append(step)
                    report(step)
                case other:
                    return await self._failure(other, session)
        last = steps_down[-1]
        reason = f"out of memory at {last.rung}, the last rung ({last.detail})"
        return GenerationFailure("memory", reason, retry=False, free=free)

    def _generate_message(self, request: GenerationRequest, rung: Rung) -> Generate:
        return Generate(
            job=request.job,
            spec=request.spec,
            mode=rung.mode,
            width=rung.width,
            height=rung.height,
            frames=rung.frames,
            picture=str(request.picture),
            staging=str(request.staging),
            limits=self._limits,
        )

    async def _failure(
        self, answer: Failed | Cancelled | OutOfMemory | ChildFailure, session: WorkerSession
    ) -> GenerationFailure:
        """Turn a final reply other than a clip or a step down into a failure."""
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
            case failure:
                return await self._supervisor.discard(session, failure, "lost")


def _skipped(request: GenerationRequest, loaded: Loaded | None, free: int | None) -> list[StepDown]:
    """Return the leading rungs that are skipped because they need more memory than is free."""
    assert loaded is not None

    def needs(rung: Rung) -> int:
        return request.needs(rung, loaded)

    def step(rung: Rung) -> StepDown:
        detail = f"needs {needs(rung) / 1e9:.2f} GB, {(free or 0) / 1e9:.2f} GB may be used"
        return StepDown(rung, "predicted", detail, free=free)

    return [step(rung) for rung in request.ladder[: first_fitting(request.ladder, free, needs)]]


def _memory_left_over(
    request: GenerationRequest,
    rung: Rung,
    loaded: Loaded,
    free: int | None,
    steps_down: Sequence[StepDown],
) -> int | None:
    """Return the bytes predicted to stay free beside a clip.

    0 once a prediction proved wrong, None if the device's memory is not counted.
    """
    if any(step.stage != "predicted" for step in steps_down):
        return 0
    return None if free is None else free - request.needs(rung, loaded)


def retry_seed(seed: int) -> int:
    """Derive the seed of a second try: deterministic, and unrelated to the first."""
    return random.Random(seed).randrange(2**32)
