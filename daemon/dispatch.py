"""Dispatch: one slot per device. Claim, attempt, then publish, try again, or give up.

    claim -> prepare the picture -> make the clip -> fence -> publish -> settle the picture

Each attempt works in a private folder `OUTBOX/.i2vd/<job>-<attempt>/`, which ends with it.
"""

import asyncio
import contextlib
import hashlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog

from daemon import archive
from daemon.job import Job
from daemon.ledger import Ledger
from daemon.metrics import Metrics
from daemon.place import Method, probe, write_durably
from daemon.publish import SIDECAR, publish
from daemon.settings import Inbox, Settings
from pipeline import ladder
from pipeline.decoder import Decoder
from pipeline.maker import Clip, Maker, NoClip, Order, StepDown
from pipeline.memory import predicted_peak
from pipeline.presets import Family
from pipeline.protocol import Loaded, Progress, Rejected
from pipeline.sidecar import AppliedRule, Source, compose

STAGING = ".i2vd"
_BEAT = 1.0
"""Seconds between two heartbeats of a running attempt: how soon a cancel is seen."""
_IDLE = 1.0
"""Seconds between two looks into an empty queue; a new job wakes the slot at once."""
_TROUBLE = 5.0
"""Seconds to wait when the trouble is not the job's: a full disk, a model that does not load."""

log = structlog.get_logger()


@dataclass
class Slot:
    """A device, its maker, and what it is doing."""

    device: str
    maker: Maker
    job: Job | None = None
    progress: Progress | None = None
    stage_began: float = 0.0
    trouble: str | None = None
    """Why no job can be made at all, while that is so."""
    seen_alive: float = field(default_factory=time.monotonic)

    def eta(self, now: float) -> float | None:
        """Seconds that the denoising in hand will take; None when nothing can be said."""
        p = self.progress
        if p is None or p.stage != "denoise" or p.step < 1:
            return None
        return (now - self.stage_began) / p.step * (p.steps - p.step)


class Dispatcher:
    """Runs the slots. `stopping`: claim no more; `hurry`: end the running attempts too."""

    def __init__(
        self,
        settings: Settings,
        family: Family,
        ledger: Ledger,
        decoder: Decoder,
        metrics: Metrics,
        owner: str,
    ) -> None:
        self.stopping = asyncio.Event()
        self.hurry = asyncio.Event()
        self.changed: Callable[[], None] = lambda: None
        self._settings = settings
        self._family = family
        self._ledger = ledger
        self._decoder = decoder
        self._metrics = metrics
        self._owner = owner
        self._wake = asyncio.Condition()
        self._carrying_on = asyncio.Lock()
        self._methods: dict[Path, Method] = {}

    async def begin(self) -> None:
        """Carry on what a crash interrupted, before anything new is claimed."""
        for recovered in await asyncio.to_thread(self._ledger.recover, self._owner):
            log.warning("recovered", job=recovered)
        await self._carry_on()
        for job in await asyncio.to_thread(self._ledger.unsettled):
            await self._settle(job)
        await asyncio.to_thread(self._sweep)

    async def _carry_on(self) -> None:
        """Finish what stands between the fence and the outbox."""
        async with self._carrying_on:
            for job in await asyncio.to_thread(self._ledger.unpublished, self._owner):
                log.warning("carrying on the publication", job=job.id)
                await self._publish(job)

    def wake(self) -> None:
        """There may be something to claim."""
        asyncio.get_running_loop().create_task(self._notify())

    async def run(self, slot: Slot) -> None:
        """Work until told to stop."""
        while not self.stopping.is_set():
            slot.seen_alive = time.monotonic()
            job = await asyncio.to_thread(
                self._ledger.claim, self._owner, self._settings.queue.lease
            )
            if job is None:
                await self._rest(_IDLE)
                continue
            with structlog.contextvars.bound_contextvars(job=job.id):
                await self._attempt(slot, job)
            while slot.trouble and not self.stopping.is_set():
                await self._rest(_TROUBLE)
                await self._look_again(slot)
        await slot.maker.close()

    async def _look_again(self, slot: Slot) -> None:
        """After trouble: publish what waits for it, then let the slot claim again."""
        slot.seen_alive = time.monotonic()
        try:
            await self._carry_on()
            slot.trouble = None
        except OSError as error:
            slot.trouble = _told(error)

    # --- one attempt

    async def _attempt(self, slot: Slot, job: Job) -> None:
        log.info("running", path=job.path, attempt=job.attempt, device=slot.device)
        inbox = self._settings.inbox_named(job.inbox)
        if inbox is None:
            await self._fail(job, f"inbox {job.inbox!r} is not configured any more")
            return
        staging = _staging(inbox, job)
        slot.job, slot.progress, slot.trouble = job, None, None
        try:
            await asyncio.to_thread(_make_empty, staging)
            outcome = await self._make(slot, inbox, job, staging)
            if outcome is not None:
                await self._conclude(slot, inbox, job, staging, outcome)
        except OSError as error:  # a full disk, a share that went: not the job's fault
            slot.trouble = _told(error)
            log.error("could not work, the job goes back to the queue", why=slot.trouble)
            await asyncio.to_thread(self._ledger.give_back, job, slot.trouble)
        finally:
            slot.job = slot.progress = None
            self.changed()
            await asyncio.to_thread(self._discard, job, staging)

    async def _make(
        self, slot: Slot, inbox: Inbox, job: Job, staging: Path
    ) -> Clip | NoClip | None:
        """The clip, why there is none, or None when the job is dealt with already."""
        assert job.spec is not None
        clean = staging / "picture.png"
        prepared = await self._decoder.prepare(inbox.path / job.path, job.sha256, job.spec, clean)
        if isinstance(prepared, Rejected):
            await self._unprepared(inbox, job, prepared)
            return None
        order = Order(str(job.id), job.spec, self._ladder(slot, job), clean, staging)
        making = asyncio.create_task(slot.maker.make(order, self._reporter(slot, job)))
        beating = asyncio.create_task(self._heartbeat(slot, job))
        hurrying = asyncio.create_task(self.hurry.wait())
        try:
            await asyncio.wait({making, beating, hurrying}, return_when=asyncio.FIRST_COMPLETED)
            while not making.done():
                await slot.maker.kill()
                await asyncio.wait({making}, timeout=_BEAT)
            if beating.done():
                beating.result()
            return making.result()
        finally:
            for task in (beating, hurrying):
                task.cancel()

    def _ladder(self, slot: Slot, job: Job) -> tuple[ladder.Rung, ...]:
        """The rungs still to try: not those that failed before, nor those that cannot fit."""
        assert job.spec is not None
        rungs = ladder.rungs(job.spec, self._family)[job.rung :]
        loaded = slot.maker.loaded
        if loaded is None or loaded.memory is None:
            return rungs
        dtype = "float16" if self._settings.model.dtype == "auto" else self._settings.model.dtype
        first = ladder.first_that_fits(
            rungs, loaded.memory, lambda rung: predicted_peak(rung, self._family, dtype)
        )
        return rungs[first:]

    def _reporter(self, slot: Slot, job: Job) -> Callable[[Progress | Loaded | StepDown], None]:
        rung = job.rung

        def report(news: Progress | Loaded | StepDown) -> None:
            nonlocal rung
            match news:
                case Progress():
                    if slot.progress is None or slot.progress.stage != news.stage:
                        slot.stage_began = time.monotonic()
                        log.debug("stage", stage=news.stage)
                    elif news.stage == "denoise":
                        self._metrics.steps.inc(news.step - slot.progress.step)
                    slot.progress = news
                    self.changed()
                case Loaded():
                    log.info("model loaded", model=news.model, device=news.device_name,
                             seconds=round(news.seconds, 1))  # fmt: skip
                case StepDown():
                    rung += 1
                    log.warning("out of memory, stepping down", tried=str(news.rung),
                                stage=news.stage)  # fmt: skip
                    self._metrics.fallbacks.labels(news.stage).inc()
                    self._ledger.step_down(job, rung, f"out of memory at {news.rung}")

        return report

    async def _heartbeat(self, slot: Slot, job: Job) -> None:
        """Keep the lease; return when it is lost, pass a cancel on."""
        while True:
            await asyncio.sleep(_BEAT)
            slot.seen_alive = time.monotonic()
            answer = await asyncio.to_thread(
                self._ledger.renew, job, self._settings.queue.lease, progress_of(slot)
            )
            if answer == "lost":
                log.warning("the lease is lost, another took the job over")
                return
            if answer == "cancel":
                await slot.maker.cancel()

    # --- what comes of it

    async def _conclude(
        self, slot: Slot, inbox: Inbox, job: Job, staging: Path, outcome: Clip | NoClip
    ) -> None:
        match outcome:
            case Clip() as clip:
                await self._fence(inbox, job, staging, clip)
            case NoClip() if self.hurry.is_set():
                log.info("given back: stopping")
                await asyncio.to_thread(self._ledger.give_back, job, "the daemon was stopped")
            case NoClip(kind="cancelled"):
                log.info("cancelled")
                await asyncio.to_thread(self._ledger.cancelled, job, "cancelled by the operator")
                await self._settle(job)
            case NoClip(kind="load"):
                slot.trouble = f"the model does not load: {outcome.reason}"
                log.error("the model does not load, the job goes back", why=outcome.reason)
                await asyncio.to_thread(self._ledger.give_back, job, slot.trouble)
            case NoClip() if outcome.retry and job.failures + 1 < self._settings.queue.tries:
                delay = self._settings.queue.backoff * 2**job.failures
                log.warning("failed, will be tried again", why=outcome.reason, seconds=delay)
                self._metrics.retries.inc()
                await asyncio.to_thread(self._ledger.try_again, job, outcome.reason, delay)
            case NoClip():
                await self._fail(job, outcome.reason)

    async def _fence(self, inbox: Inbox, job: Job, staging: Path, clip: Clip) -> None:
        """`running -> publishing`, or nothing when another took the job over meanwhile."""
        assert job.spec is not None
        sidecar = compose(
            clip,
            generator=f"i2vd {version('i2vd')}",
            job=str(job.id),
            attempt=job.attempt,
            made_at=datetime.now(UTC),
            source=Source(path=job.path, sha256=job.sha256, **job.source),
            rule=AppliedRule(name=job.rule or "", digest=job.rules_digest or ""),
            asked=job.spec,
        )
        text = sidecar.model_dump_json(indent=2) + "\n"
        await asyncio.to_thread(write_durably, staging / SIDECAR, text)
        result = {
            "sidecar_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "attempt": job.attempt,
            "given": str(clip.rung),
            "width": clip.rung.width,
            "height": clip.rung.height,
            "frames": clip.rung.frames,
            "degraded": sidecar.degraded,
            "seconds": clip.made.seconds,
        }
        if await asyncio.to_thread(self._ledger.publishing, job, result):
            self._observe(job, clip, degraded=sidecar.degraded)
            await self._publish(job.model_copy(update={"result": result}))

    def _observe(self, job: Job, clip: Clip, *, degraded: bool) -> None:
        assert job.spec is not None
        for stage, seconds in clip.made.seconds.items():
            self._metrics.stage_seconds.labels(stage).observe(seconds)
        if clip.made.peak_memory is not None:
            self._metrics.peak_memory.labels(job.spec.preset).set(clip.made.peak_memory)
        if degraded:
            self._metrics.degraded.inc()

    async def _publish(self, job: Job) -> None:
        """`publishing -> done`; also what carries on after a crash."""
        inbox = self._settings.inbox_named(job.inbox)
        if inbox is None or job.spec is None or job.result is None:
            log.error("cannot publish: its inbox is not configured any more", job=job.id)
            return
        staging = _staging(inbox, job)
        method = await self._method(inbox)
        clip = await asyncio.to_thread(
            publish, staging, inbox.outbox / job.clip_name, method, job.result["sidecar_sha256"]
        )
        await asyncio.to_thread(self._ledger.done, job, {**job.result, "clip": str(clip)})
        log.info("done", job=job.id, clip=str(clip), degraded=job.result["degraded"],
                 seconds=round(sum(job.result["seconds"].values()), 1))  # fmt: skip
        self._metrics.clip_seconds.labels(job.spec.preset).observe(time.time() - job.created)
        await asyncio.to_thread(shutil.rmtree, staging, ignore_errors=True)
        await self._settle(job)

    async def _unprepared(self, inbox: Inbox, job: Job, refusal: Rejected) -> None:
        if not refusal.gone:
            await self._fail(job, refusal.reason)
        elif not inbox.path.is_dir():
            raise OSError(None, "the inbox is not there", str(inbox.path))
        else:
            log.info("cancelled: the picture is gone", path=job.path)
            await asyncio.to_thread(
                self._ledger.cancelled, job, "the picture was taken away before its turn"
            )
            await asyncio.to_thread(self._ledger.moved, job, "gone")

    async def _fail(self, job: Job, reason: str) -> None:
        log.error("failed", why=reason)
        if await asyncio.to_thread(self._ledger.fail, job, reason):
            await self._settle(job)

    async def _settle(self, job: Job) -> None:
        await asyncio.to_thread(archive.settle, self._ledger, self._settings, job)

    # --- housekeeping

    def _discard(self, job: Job, staging: Path) -> None:
        """Remove the staging folder, unless a clip in it still waits to be published."""
        if all(other.id != job.id for other in self._ledger.unpublished(self._owner)):
            shutil.rmtree(staging, ignore_errors=True)

    async def _method(self, inbox: Inbox) -> Method:
        if inbox.outbox not in self._methods:
            self._methods[inbox.outbox] = await asyncio.to_thread(probe, inbox.outbox)
        return self._methods[inbox.outbox]

    def _sweep(self) -> None:
        """Remove the staging folders of attempts that no longer exist."""
        unpublished = self._ledger.unpublished(self._owner)
        needed = {f"{job.id}-{job.attempt}" for job in unpublished}
        for outbox in {inbox.outbox for inbox in self._settings.inbox}:
            for folder in (outbox / STAGING).glob("*-*"):
                if folder.name not in needed:
                    shutil.rmtree(folder, ignore_errors=True)

    async def _notify(self) -> None:
        async with self._wake:
            self._wake.notify_all()

    async def _rest(self, seconds: float) -> None:
        """Wait for work, a while, or the end."""
        async with self._wake:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), seconds)


def progress_of(slot: Slot) -> dict[str, Any] | None:
    """What a slot is doing, as the ledger and the API tell it."""
    if slot.progress is None:
        return None
    eta = slot.eta(time.monotonic())
    return {
        "stage": slot.progress.stage,
        "step": slot.progress.step,
        "steps": slot.progress.steps,
        "eta": None if eta is None else round(eta, 1),
    }


def _told(error: OSError) -> str:
    return f"{error.strerror or error}: {error.filename}" if error.filename else str(error)


def _staging(inbox: Inbox, job: Job) -> Path:
    return inbox.outbox / STAGING / f"{job.id}-{job.attempt}"


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
