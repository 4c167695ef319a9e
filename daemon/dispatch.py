"""Dispatch: each slot claims a job, attempts it, and carries the outcome on; one after another.

    claim -> attempt.py -> outcome.py

Each attempt works in a private folder `OUTBOX/.i2vd/<job>-<attempt>/`, which ends with it.
"""

import asyncio
import contextlib
import shutil
import time
from pathlib import Path

import structlog

from daemon.attempt import Attempt
from daemon.job import Job
from daemon.outcome import STAGING, Outcomes, staging_of
from daemon.parts import Parts
from daemon.place import told
from daemon.settings import Inbox
from daemon.slot import Slot

_IDLE = 2.0
"""Seconds between two looks into an empty queue; a new job wakes the slot at once."""
_TROUBLE = 5.0
"""Seconds to wait when the trouble is not the job's: a full disk, a model that does not load."""

log = structlog.get_logger()


class Dispatcher:
    """Runs the slots. `stopping`: claim no more; `hurry`: end the running attempts too."""

    def __init__(self, parts: Parts, owner: str) -> None:
        self.stopping = asyncio.Event()
        self.hurry = asyncio.Event()
        self._parts = parts
        self._ledger = parts.ledger
        self._owner = owner
        self._outcomes = Outcomes(parts)
        self._wake = asyncio.Event()
        self._carrying_on = asyncio.Lock()
        self._slots: list[Slot] = []

    async def begin(self) -> None:
        """Put right what a crash left, before anything new is claimed."""
        for recovered in await asyncio.to_thread(self._ledger.recover, self._owner):
            log.warning("recovered", job=recovered)
        await asyncio.to_thread(self._parts.archive.catch_up)
        await asyncio.to_thread(self._sweep)

    def wake(self) -> None:
        """There may be something to claim, or the end has come."""
        self._wake.set()

    async def run(self, slot: Slot) -> None:
        """Carry on what was being published, then work until told to stop."""
        self._slots.append(slot)
        while not self.stopping.is_set():
            slot.alive_at = time.monotonic()
            self._wake.clear()
            if not await self._all_published(slot):
                await self._rest(_TROUBLE)
                continue
            lease = self._parts.settings.queue.lease
            job = await asyncio.to_thread(self._ledger.claim, self._owner, lease)
            if job is None:
                await self._rest(_IDLE)
                continue
            with structlog.contextvars.bound_contextvars(job=job.id):
                await self._attempt(slot, job)
            if slot.trouble:
                await self._rest(_TROUBLE)
        await slot.maker.close()

    async def _attempt(self, slot: Slot, job: Job) -> None:
        log.info("running", path=job.path, attempt=job.attempt, device=slot.device)
        inbox = self._parts.settings.inbox_named(job.inbox)
        if inbox is None:
            await self._outcomes.fail(job, f"inbox {job.inbox!r} is not configured any more")
            return
        staging = staging_of(inbox, job)
        slot.take(job)
        try:
            await asyncio.to_thread(_make_empty, staging)
            outcome = await Attempt(self._parts, slot, inbox, job, staging).run(self.hurry)
            await self._outcomes.conclude(slot, inbox, job, outcome, hurry=self.hurry.is_set())
        except OSError as error:  # a full disk, a share that went: not the job's fault
            slot.trouble = told(error)
            log.error("could not work, the job goes back to the queue", why=slot.trouble)
            await asyncio.to_thread(self._ledger.give_back, job, slot.trouble)
        finally:
            slot.take(None)
            await asyncio.to_thread(self._discard, inbox, job)

    async def _all_published(self, slot: Slot) -> bool:
        """Finish what stands between the fence and the outbox; False when that cannot be done."""
        async with self._carrying_on:
            for job in await asyncio.to_thread(self._ledger.unpublished, self._owner):
                in_hand = any(busy.job and busy.job.id == job.id for busy in self._slots)
                if in_hand or self._parts.settings.inbox_named(job.inbox) is None:
                    continue
                log.warning("carrying on the publication", job=job.id)
                try:
                    await self._outcomes.publish(job)
                except OSError as error:
                    slot.trouble = told(error)
                    log.error("could not publish, trying again", job=job.id, why=slot.trouble)
                    return False
                slot.trouble = None
        return True

    def _discard(self, inbox: Inbox, job: Job) -> None:
        """Remove the staging folder, unless a clip in it still waits to be published."""
        if all(other.id != job.id for other in self._ledger.unpublished(self._owner)):
            shutil.rmtree(staging_of(inbox, job), ignore_errors=True)

    def _sweep(self) -> None:
        """Remove the staging folders of attempts that no longer exist."""
        needed = {f"{job.id}-{job.attempt}" for job in self._ledger.unpublished(self._owner)}
        for outbox in {inbox.outbox for inbox in self._parts.settings.inbox}:
            for folder in (outbox / STAGING).glob("*-*"):
                if folder.name not in needed:
                    shutil.rmtree(folder, ignore_errors=True)

    async def _rest(self, seconds: float) -> None:
        """Wait for work, a while, or the end."""
        if not self.stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), seconds)


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
