"""Attempt: one try at a job on one slot.

Prepares the picture, walks down the ladder of fallbacks and renews the lease. An attempt may start
while the device still runs the previous job, and then waits with its picture prepared. Outcomes are
applied by outcome.py.
"""

import asyncio
import contextlib
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from daemon.background import try_once
from daemon.config.settings import Inbox
from daemon.dispatch.running_job import RunningJob
from daemon.dispatch.slot import Slot
from daemon.dispatch.trial import judge
from daemon.jobs.database import QueueUnavailable
from daemon.publish.previews import store_preview
from daemon.services import Services
from daemon.storage.folder_threads import FolderHangs
from pipeline.children.generation import Clip, GenerationFailure, GenerationRequest, StepDown
from pipeline.children.protocol import Loaded, Progress, QualityRejected, Rejected, Unavailable
from pipeline.memory import ladder
from pipeline.memory.modes import Rung
from pipeline.sidecar import fallback

CLEAN = "picture.png"
_HEARTBEAT_SECONDS = 1.0
"""Interval of lease renewal; also the delay until a cancel is seen."""
_EXCLUSIVE_POLL_SECONDS = 0.1
"""Interval at which an exclusive job checks that the slot runs no other."""

_FOLDER_STAGES = ("condition", "encode_video")
"""Stages in which the worker reads from staging, and writes to it."""
_SILENT_SECONDS = 5.0
"""Time without a message in such a stage after which the worker hangs with the folders."""

_STOPPED = GenerationFailure("ended", "the daemon was stopped", retry=True)

log = structlog.get_logger()


class Attempt:
    """One try at a claimed job, with an empty staging folder. Created by dispatcher.py."""

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
        self._heard = time.monotonic()
        """Monotonic time of the worker's last message."""
        self._preview: asyncio.Future[None] | None = None
        """The storing of the last preview."""

    async def run(
        self, stopping: asyncio.Event, stop_now: asyncio.Event
    ) -> Clip | GenerationFailure | Rejected | Unavailable:
        """Generate the clip and return it, or return the reason for the failure.

        Once `stopping` is set, generation does not start any more. `stop_now` ends a running one by
        killing the child; so does a lost lease. Raises FolderHangs, after the child was killed if
        it waits for a folder, because it would keep the device from all other jobs.
        """
        generation = asyncio.create_task(self._generate(stopping))
        renewal = asyncio.create_task(self._renew_lease())
        stop = asyncio.create_task(stop_now.wait())
        withdrawal = asyncio.create_task(self._withdraw(stopping))
        stuck = asyncio.create_task(self._until_stuck())
        others = (renewal, stop, withdrawal, stuck)
        try:
            await asyncio.wait(
                {generation, renewal, stop, stuck}, return_when=asyncio.FIRST_COMPLETED
            )
            while not generation.done():
                if stuck.done():
                    await self._slot.generator.kill_child()
                else:
                    await self._slot.generator.kill(self._id)
                await asyncio.wait({generation}, timeout=_HEARTBEAT_SECONDS)
            if renewal.done():
                renewal.result()
            outcome = generation.result()
            if stuck.done() and not isinstance(outcome, Clip):
                raise stuck.result()
            return outcome
        finally:
            for task in others:
                task.cancel()

    async def _until_stuck(self) -> FolderHangs:
        """Wait until the worker hangs with the folders; return the error."""
        while True:
            await asyncio.sleep(_HEARTBEAT_SECONDS)
            progress = self._running_job.progress
            hangs = self._services.folder_threads.hangs(self._inbox)
            silent = time.monotonic() - self._heard > _SILENT_SECONDS
            if hangs and silent and progress and progress.stage in _FOLDER_STAGES:
                return FolderHangs(hangs)

    async def _withdraw(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self._slot.generator.withdraw(self._id)

    async def _generate(
        self, stopping: asyncio.Event
    ) -> Clip | GenerationFailure | Rejected | Unavailable:
        while self._running_job.runs_exclusively and len(self._slot.running) > 1:
            await asyncio.sleep(_EXCLUSIVE_POLL_SECONDS)
            if stopping.is_set():
                return _STOPPED
        clean = self._staging / CLEAN
        picture = self._inbox.path / self._job.path
        prepared = await self._services.image_pool.prepare(
            picture,
            self._job.sha256,
            self._spec,
            clean,
            within=self._inbox.path,
            in_thread=partial(self._services.folder_threads.run, self._inbox),
        )
        if isinstance(prepared, (Rejected, Unavailable)):
            return prepared
        if stopping.is_set():  # the picture is prepared, but generation has not started
            return _STOPPED
        request = GenerationRequest(
            self._id, self._spec, self._ladder(), self._needs, clean, self._staging
        )
        outcome = await self._slot.generator.generate(request, self._on_progress)
        if isinstance(outcome, GenerationFailure) and self._slot.is_suspect(self._job.id, outcome):
            return await judge(
                self._services, self._slot, self._inbox, self._id, self._staging, outcome
            )
        match outcome:
            case Clip():
                self._slot.trust()
                recording = asyncio.to_thread(self._services.memory.record, outcome, self._spec)
                ratio = await try_once("measurement", self._services.metrics, recording)
                if ratio is not None:
                    self._services.metrics.prediction_ratio.labels(outcome.rung.mode).set(ratio)
            case GenerationFailure(kind="memory", reason=reason, free=free):
                hint = ladder.advice(self._spec, self._services.family, free, self._predicted)
                return replace(outcome, reason=f"{reason}; {hint}")
        return outcome

    def _ladder(self) -> tuple[Rung, ...]:
        """Return the rungs that have not failed in an earlier attempt; at least the last one."""
        fp8 = self._services.settings.model.fp8
        rungs = ladder.rungs(self._spec, self._services.family, self._predicted, lossy=fp8)
        return rungs[min(self._job.rung, len(rungs) - 1) :]

    def _predicted(self, rung: Rung) -> int:
        return self._services.memory.predicted(rung, self._spec, self._slot.generator.dtype)

    def _needs(self, rung: Rung, loaded: Loaded) -> int:
        return self._services.memory.needs(rung, self._spec, loaded)

    def _on_progress(self, message: Progress | Loaded | StepDown | QualityRejected) -> None:
        self._heard = time.monotonic()
        match message:
            case Progress():
                self._services.metrics.steps.inc(self._slot.update(self._running_job, message))
            case Loaded():
                log.info(
                    "model loaded",
                    model=message.model,
                    device=message.device_name,
                    seconds=round(message.seconds, 1),
                )
            case QualityRejected():
                log.warning(
                    "quality check rejected the clip", flaw=message.flaw, reason=message.reason
                )
                self._services.metrics.quality_rejections.labels(message.flaw).inc()
            case StepDown():
                self._fall_back(message)

    def _fall_back(self, step: StepDown) -> None:
        self._rung += 1
        self._fallbacks.append(fallback(step))
        self._services.metrics.fallbacks.labels(step.rung.mode, step.stage).inc()
        if step.stage == "predicted":  # not stored: the next attempt may find more free memory
            log.info("rung skipped, not enough memory", rung=str(step.rung), reason=step.detail)
            return
        log.warning("out of memory", tried=str(step.rung), stage=step.stage, seconds=step.seconds)
        with contextlib.suppress(QueueUnavailable):  # a later attempt would fail in the same way
            self._services.store.fall_back(self._job, self._rung, self._fallbacks)
            if self._slot.generator.loaded is not None:
                self._services.memory.record_failure(step, self._spec, self._slot.generator.loaded)

    async def _renew_lease(self) -> None:
        """Renew the lease and forward a cancel; return only when the lease is lost."""
        lease = self._services.settings.queue.lease
        while True:
            await asyncio.sleep(_HEARTBEAT_SECONDS)
            self._slot.last_turn = time.monotonic()
            progress = self._progress_report()
            try:
                answer = await asyncio.to_thread(
                    self._services.store.renew, self._job, lease, progress
                )
            except QueueUnavailable as error:  # the clip may be done before the lease expires
                self._services.storage_health.report_error(self._inbox, error)
                continue
            if answer == "lost":
                log.warning("lease lost")
                return
            if answer == "cancel":
                await self._slot.generator.cancel(self._id)

    def _progress_report(self) -> dict[str, Any] | None:
        """Return the progress to store in the queue.

        With a shared queue the preview is written to staging, where the other hosts read it. The
        lease does not wait for that.
        """
        report, running_job = self._running_job.progress_dict(), self._running_job
        if report and running_job.preview and self._services.database.shared:
            version = running_job.preview_version
            if version > self._stored_preview_version and (
                self._preview is None or self._preview.done()
            ):
                storing = self._store_preview(running_job.preview, version)
                task = try_once("preview", self._services.metrics, storing)
                self._preview = asyncio.create_task(task)
            report["preview_version"] = self._stored_preview_version
        return report

    async def _store_preview(self, content: bytes, version: int) -> None:
        run = self._services.folder_threads.run
        with contextlib.suppress(FolderHangs):
            await run(self._inbox, store_preview, self._inbox, self._job, content)
            self._stored_preview_version = version
