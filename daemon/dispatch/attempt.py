"""One attempt at a job on one slot: prepare the picture, walk down the ladder, keep the lease.

It may begin while the device is still at the job before; then it waits for its turn with the
picture ready. What comes of it is for outcome.py.
"""

import asyncio
import contextlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from daemon.config.settings import Inbox
from daemon.dispatch.running_job import RunningJob
from daemon.dispatch.slot import Slot
from daemon.jobs.database import QueueUnavailable
from daemon.publish.previews import store_preview
from daemon.services import Services
from pipeline.children.generation import Clip, GenerationFailure, GenerationRequest, StepDown
from pipeline.children.protocol import Loaded, Progress, QualityRejected, Rejected
from pipeline.memory import ladder
from pipeline.memory.modes import Rung
from pipeline.sidecar import fallback

CLEAN = "picture.png"
_BEAT = 1.0
"""Seconds between two heartbeats of a running attempt: how soon a cancel is seen."""
_TURN = 0.1
"""Seconds between two looks whether a job that has to be alone is."""

_STOPPED = GenerationFailure("ended", "the daemon was stopped", retry=True)

log = structlog.get_logger()


class Attempt:
    """Made by dispatch.py for a claimed job, with an empty staging folder."""

    def __init__(
        self, services: Services, slot: Slot, inbox: Inbox, running_job: RunningJob, staging: Path
    ) -> None:
        job = running_job.job
        assert job.spec is not None
        self._services = services
        self._slot = slot
        self._running_job = running_job
        self._inbox = inbox
        self._job = job
        self._id = str(job.id)
        self._spec = job.spec
        self._staging = staging
        self._rung = job.rung
        self._fallbacks = list(job.fallbacks)
        self._stored_preview_version = 0

    async def run(
        self, stopping: asyncio.Event, hurry: asyncio.Event
    ) -> Clip | GenerationFailure | Rejected:
        """Make the clip, or say why there is none.

        Once `stopping` is set it does not begin any more, and `hurry` ends it by killing the child.
        """
        making = asyncio.create_task(self._generate(stopping))
        beating = asyncio.create_task(self._renew_lease())
        hurrying = asyncio.create_task(hurry.wait())
        withdrawing = asyncio.create_task(self._withdraw(stopping))
        try:
            await asyncio.wait({making, beating, hurrying}, return_when=asyncio.FIRST_COMPLETED)
            while not making.done():
                await self._slot.generator.kill(self._id)
                await asyncio.wait({making}, timeout=_BEAT)
            if beating.done():
                beating.result()
            return making.result()
        finally:
            beating.cancel()
            hurrying.cancel()
            withdrawing.cancel()

    async def _withdraw(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self._slot.generator.withdraw(self._id)

    async def _generate(self, stopping: asyncio.Event) -> Clip | GenerationFailure | Rejected:
        while self._running_job.runs_exclusively and len(self._slot.running) > 1:
            await asyncio.sleep(_TURN)
            if stopping.is_set():
                return _STOPPED
        clean = self._staging / CLEAN
        picture = self._inbox.path / self._job.path
        prepared = await self._services.image_pool.prepare(
            picture, self._job.sha256, self._spec, clean, within=self._inbox.path
        )
        if isinstance(prepared, Rejected):
            return prepared
        if stopping.is_set():  # whatever it waited for, it has not begun
            return _STOPPED
        order = GenerationRequest(
            self._id, self._spec, self._ladder(), self._needs, clean, self._staging
        )
        outcome = await self._slot.generator.generate(order, self._on_progress)
        match outcome:
            case Clip():
                ratio = await asyncio.to_thread(self._services.memory.record, outcome, self._spec)
                if ratio is not None:
                    self._services.metrics.forecast_ratio.labels(outcome.rung.mode).set(ratio)
            case GenerationFailure(kind="memory", reason=reason, room=room):
                hint = ladder.advice(self._spec, self._services.family, room, self._predicted)
                return replace(outcome, reason=f"{reason}; {hint}")
        return outcome

    def _ladder(self) -> tuple[Rung, ...]:
        """The rungs still to try: not those that failed before."""
        fp8 = self._services.settings.model.fp8
        rungs = ladder.rungs(self._spec, self._services.family, self._predicted, lossy=fp8)
        return rungs[min(self._job.rung, len(rungs) - 1) :]

    def _predicted(self, rung: Rung) -> int:
        return self._services.memory.predicted(rung, self._spec, self._slot.generator.dtype)

    def _needs(self, rung: Rung, loaded: Loaded) -> int:
        return self._services.memory.needs(rung, self._spec, loaded)

    def _on_progress(self, news: Progress | Loaded | StepDown | QualityRejected) -> None:
        match news:
            case Progress():
                self._services.metrics.steps.inc(self._slot.update(self._running_job, news))
            case Loaded():
                log.info(
                    "model loaded",
                    model=news.model,
                    device=news.device_name,
                    seconds=round(news.seconds, 1),
                )
            case QualityRejected():
                log.warning("refused by the gate", flaw=news.flaw, why=news.reason)
                self._services.metrics.refusals.labels(news.flaw).inc()
            case StepDown():
                self._fall_back(news)

    def _fall_back(self, step: StepDown) -> None:
        self._rung += 1
        self._fallbacks.append(fallback(step))
        self._services.metrics.fallbacks.labels(step.rung.mode, step.stage).inc()
        if step.stage == "forecast":  # at the next attempt there may be more memory
            log.info("no room", rung=str(step.rung), why=step.detail)
            return
        log.warning("out of memory", tried=str(step.rung), stage=step.stage, seconds=step.seconds)
        with contextlib.suppress(QueueUnavailable):  # a later attempt finds out again
            self._services.store.fall_back(self._job, self._rung, self._fallbacks)
            if self._slot.generator.loaded is not None:
                self._services.memory.record_failure(step, self._spec, self._slot.generator.loaded)

    async def _renew_lease(self) -> None:
        """Keep the lease and pass a cancel on, for ever; return only when the lease is lost."""
        lease = self._services.settings.queue.lease
        while True:
            await asyncio.sleep(_BEAT)
            self._slot.last_turn = time.monotonic()
            progress = await self._progress()
            try:
                answer = await asyncio.to_thread(
                    self._services.store.renew, self._job, lease, progress
                )
            except QueueUnavailable as error:  # the clip may be done before it matters
                self._services.storage_health.report_error(self._inbox, error)
                continue
            if answer == "lost":
                log.warning("the lease is lost, another took the job over")
                return
            if answer == "cancel":
                await self._slot.generator.cancel(self._id)

    async def _progress(self) -> dict[str, Any] | None:
        """What the ledger is told; hosts that share it find the preview in staging."""
        told, hand = self._running_job.progress_dict(), self._running_job
        if told and hand.preview and self._services.database.shared:
            if hand.preview_version > self._stored_preview_version:
                await asyncio.to_thread(store_preview, self._inbox, self._job, hand.preview)
                self._stored_preview_version = hand.preview_version
            told["previews"] = self._stored_preview_version
        return told
