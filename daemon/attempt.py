"""One attempt at a job on one slot: prepare the picture, walk down the ladder, keep the lease.

What comes of it is for outcome.py.
"""

import asyncio
import contextlib
import time
from pathlib import Path

import structlog

from daemon.database import LedgerUnavailable
from daemon.job import Job
from daemon.parts import Parts
from daemon.settings import Inbox
from daemon.slot import Slot
from pipeline import ladder
from pipeline.maker import Clip, NoClip, Order, StepDown
from pipeline.memory import predicted_peak
from pipeline.protocol import Loaded, Progress, Rejected, Spoilt
from pipeline.sidecar import fallback

CLEAN = "picture.png"
_BEAT = 1.0
"""Seconds between two heartbeats of a running attempt: how soon a cancel is seen."""

log = structlog.get_logger()


class Attempt:
    """Made by dispatch.py for a claimed job, with an empty staging folder."""

    def __init__(self, parts: Parts, slot: Slot, inbox: Inbox, job: Job, staging: Path) -> None:
        assert job.spec is not None
        self._parts = parts
        self._slot = slot
        self._inbox = inbox
        self._job = job
        self._spec = job.spec
        self._staging = staging
        self._rung = job.rung
        self._fallbacks = list(job.fallbacks)

    async def run(self, hurry: asyncio.Event) -> Clip | NoClip | Rejected:
        """Make the clip, or say why there is none. `hurry` ends it by killing the child."""
        making = asyncio.create_task(self._make())
        beating = asyncio.create_task(self._beat())
        hurrying = asyncio.create_task(hurry.wait())
        try:
            await asyncio.wait({making, beating, hurrying}, return_when=asyncio.FIRST_COMPLETED)
            while not making.done():
                await self._slot.maker.kill()
                await asyncio.wait({making}, timeout=_BEAT)
            if beating.done():
                beating.result()
            return making.result()
        finally:
            beating.cancel()
            hurrying.cancel()

    async def _make(self) -> Clip | NoClip | Rejected:
        clean = self._staging / CLEAN
        picture = self._inbox.path / self._job.path
        prepared = await self._parts.decoder.prepare(picture, self._job.sha256, self._spec, clean)
        if isinstance(prepared, Rejected):
            return prepared
        order = Order(str(self._job.id), self._spec, self._ladder(), clean, self._staging)
        return await self._slot.maker.make(order, self._report)

    def _ladder(self) -> tuple[ladder.Rung, ...]:
        """The rungs still to try: not those that failed before, nor those that cannot fit."""
        rungs = ladder.rungs(self._spec, self._parts.family)[self._job.rung :]
        loaded = self._slot.maker.loaded
        if loaded is None or loaded.memory is None:
            return rungs
        first = ladder.first_that_fits(
            rungs,
            loaded.memory,
            lambda rung: predicted_peak(rung, self._parts.family, self._slot.maker.dtype),
        )
        self._rung += first
        return rungs[first:]

    def _report(self, news: Progress | Loaded | StepDown | Spoilt) -> None:
        match news:
            case Progress():
                self._parts.metrics.steps.inc(self._slot.note(news))
            case Loaded():
                log.info(
                    "model loaded",
                    model=news.model,
                    device=news.device_name,
                    seconds=round(news.seconds, 1),
                )
            case Spoilt():
                log.warning("refused by the gate", flaw=news.flaw, why=news.reason)
                self._parts.metrics.refusals.labels(news.flaw).inc()
            case StepDown():
                self._rung += 1
                log.warning("out of memory", tried=str(news.rung), stage=news.stage)
                self._parts.metrics.fallbacks.labels(news.stage).inc()
                self._fallbacks.append(fallback(news))
                with contextlib.suppress(LedgerUnavailable):  # a later attempt finds out again
                    self._parts.ledger.step_down(self._job, self._rung, self._fallbacks)

    async def _beat(self) -> None:
        """Keep the lease and pass a cancel on, for ever; return only when the lease is lost."""
        lease = self._parts.settings.queue.lease
        while True:
            await asyncio.sleep(_BEAT)
            self._slot.alive_at = time.monotonic()
            try:
                answer = await asyncio.to_thread(
                    self._parts.ledger.renew, self._job, lease, self._slot.told()
                )
            except LedgerUnavailable as error:  # the clip may be done before it matters
                self._parts.room.doubt(self._inbox, error)
                continue
            if answer == "lost":
                log.warning("the lease is lost, another took the job over")
                return
            if answer == "cancel":
                await self._slot.maker.cancel()
