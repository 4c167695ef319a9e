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
from daemon.dispatch.running_job import Hand
from daemon.dispatch.slot import Slot
from daemon.jobs.database import LedgerUnavailable
from daemon.publish.previews import leave_preview
from daemon.services import Services
from pipeline.children.generation import Clip, NoClip, Order, StepDown
from pipeline.children.protocol import Loaded, Progress, Rejected, Spoilt
from pipeline.memory import ladder
from pipeline.memory.modes import Rung
from pipeline.sidecar import fallback

CLEAN = "picture.png"
_BEAT = 1.0
"""Seconds between two heartbeats of a running attempt: how soon a cancel is seen."""
_TURN = 0.1
"""Seconds between two looks whether a job that has to be alone is."""

_STOPPED = NoClip("ended", "the daemon was stopped", retry=True)

log = structlog.get_logger()


class Attempt:
    """Made by dispatch.py for a claimed job, with an empty staging folder."""

    def __init__(
        self, services: Services, slot: Slot, inbox: Inbox, hand: Hand, staging: Path
    ) -> None:
        job = hand.job
        assert job.spec is not None
        self._services = services
        self._slot = slot
        self._hand = hand
        self._inbox = inbox
        self._job = job
        self._id = str(job.id)
        self._spec = job.spec
        self._staging = staging
        self._rung = job.rung
        self._fallbacks = list(job.fallbacks)
        self._shown = 0

    async def run(self, stopping: asyncio.Event, hurry: asyncio.Event) -> Clip | NoClip | Rejected:
        """Make the clip, or say why there is none.

        Once `stopping` is set it does not begin any more, and `hurry` ends it by killing the child.
        """
        making = asyncio.create_task(self._make(stopping))
        beating = asyncio.create_task(self._beat())
        hurrying = asyncio.create_task(hurry.wait())
        withdrawing = asyncio.create_task(self._withdraw(stopping))
        try:
            await asyncio.wait({making, beating, hurrying}, return_when=asyncio.FIRST_COMPLETED)
            while not making.done():
                await self._slot.maker.kill(self._id)
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
        self._slot.maker.withdraw(self._id)

    async def _make(self, stopping: asyncio.Event) -> Clip | NoClip | Rejected:
        while self._hand.alone and len(self._slot.hands) > 1:
            await asyncio.sleep(_TURN)
            if stopping.is_set():
                return _STOPPED
        clean = self._staging / CLEAN
        picture = self._inbox.path / self._job.path
        prepared = await self._services.decoder.prepare(
            picture, self._job.sha256, self._spec, clean, within=self._inbox.path
        )
        if isinstance(prepared, Rejected):
            return prepared
        if stopping.is_set():  # whatever it waited for, it has not begun
            return _STOPPED
        order = Order(self._id, self._spec, self._ladder(), self._needs, clean, self._staging)
        outcome = await self._slot.maker.make(order, self._report)
        match outcome:
            case Clip():
                ratio = await asyncio.to_thread(self._services.forecast.learn, outcome, self._spec)
                if ratio is not None:
                    self._services.metrics.forecast_ratio.labels(outcome.rung.mode).set(ratio)
            case NoClip(kind="memory", reason=reason, room=room):
                hint = ladder.advice(self._spec, self._services.family, room, self._predicted)
                return replace(outcome, reason=f"{reason}; {hint}")
        return outcome

    def _ladder(self) -> tuple[Rung, ...]:
        """The rungs still to try: not those that failed before."""
        fp8 = self._services.settings.model.fp8
        rungs = ladder.rungs(self._spec, self._services.family, self._predicted, lossy=fp8)
        return rungs[min(self._job.rung, len(rungs) - 1) :]

    def _predicted(self, rung: Rung) -> int:
        return self._services.forecast.predicted(rung, self._spec, self._slot.maker.dtype)

    def _needs(self, rung: Rung, loaded: Loaded) -> int:
        return self._services.forecast.needs(rung, self._spec, loaded)

    def _report(self, news: Progress | Loaded | StepDown | Spoilt) -> None:
        match news:
            case Progress():
                self._services.metrics.steps.inc(self._slot.note(self._hand, news))
            case Loaded():
                log.info(
                    "model loaded",
                    model=news.model,
                    device=news.device_name,
                    seconds=round(news.seconds, 1),
                )
            case Spoilt():
                log.warning("refused by the gate", flaw=news.flaw, why=news.reason)
                self._services.metrics.refusals.labels(news.flaw).inc()
            case StepDown():
                self._step_down(news)

    def _step_down(self, step: StepDown) -> None:
        self._rung += 1
        self._fallbacks.append(fallback(step))
        self._services.metrics.fallbacks.labels(step.rung.mode, step.stage).inc()
        if step.stage == "forecast":  # at the next attempt there may be more memory
            log.info("no room", rung=str(step.rung), why=step.detail)
            return
        log.warning("out of memory", tried=str(step.rung), stage=step.stage, seconds=step.seconds)
        with contextlib.suppress(LedgerUnavailable):  # a later attempt finds out again
            self._services.ledger.step_down(self._job, self._rung, self._fallbacks)
            if self._slot.maker.loaded is not None:
                self._services.forecast.learn_failure(step, self._spec, self._slot.maker.loaded)

    async def _beat(self) -> None:
        """Keep the lease and pass a cancel on, for ever; return only when the lease is lost."""
        lease = self._services.settings.queue.lease
        while True:
            await asyncio.sleep(_BEAT)
            self._slot.alive_at = time.monotonic()
            progress = await self._progress()
            try:
                answer = await asyncio.to_thread(
                    self._services.ledger.renew, self._job, lease, progress
                )
            except LedgerUnavailable as error:  # the clip may be done before it matters
                self._services.room.report_error(self._inbox, error)
                continue
            if answer == "lost":
                log.warning("the lease is lost, another took the job over")
                return
            if answer == "cancel":
                await self._slot.maker.cancel(self._id)

    async def _progress(self) -> dict[str, Any] | None:
        """What the ledger is told; hosts that share it find the preview in staging."""
        told, hand = self._hand.told(), self._hand
        if told and hand.preview and self._services.database.shared:
            if hand.previews > self._shown:
                await asyncio.to_thread(leave_preview, self._inbox, self._job, hand.preview)
                self._shown = hand.previews
            told["previews"] = self._shown
        return told
