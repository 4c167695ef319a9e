"""Dispatch: each slot claims a job, attempts it, and carries the outcome on; one after another.

    claim -> attempt.py -> outcome.py

Each attempt works in a private folder `OUTBOX/.i2vd/<job>-<attempt>/`, which ends with it.
"""

import asyncio
import contextlib
import time

import structlog

from daemon.attempt import Attempt
from daemon.database import LedgerUnavailable
from daemon.job import Job
from daemon.outcome import Outcomes
from daemon.parts import Parts
from daemon.place import told
from daemon.publish import in_the_way
from daemon.settings import Inbox
from daemon.slot import Slot
from daemon.staging import discard, make_empty, name_of, sweep

_IDLE = 2.0
"""Seconds between two looks into an empty queue; a new job wakes the slot at once."""
_TROUBLE = 5.0
"""Seconds to wait when the trouble is not the job's: a model that does not load."""

log = structlog.get_logger()


class Dispatcher:
    """Runs the slots. `stopping`: claim no more; `hurry`: end the running attempts too."""

    def __init__(self, parts: Parts, owner: str) -> None:
        self.stopping = asyncio.Event()
        self.hurry = asyncio.Event()
        self._parts = parts
        self._ledger = parts.ledger
        self._history = parts.history
        self._owner = owner
        self._outcomes = Outcomes(parts)
        self._wake = asyncio.Event()
        self._carrying_on = asyncio.Lock()
        self._slots: list[Slot] = []
        self._behind = True

    async def begin(self) -> None:
        """Put right what a crash left, before anything new is claimed."""
        try:
            await self._put_right()
        except LedgerUnavailable as error:
            self._parts.room.doubt(None, error)

    def wake(self) -> None:
        """There may be something to claim, or the end has come."""
        self._wake.set()

    async def run(self, slot: Slot) -> None:
        """Carry on what was being published, then work until told to stop."""
        self._slots.append(slot)
        while not self.stopping.is_set():
            slot.alive_at = time.monotonic()
            self._wake.clear()
            job = await self._next()
            if job is None:
                await self._release(slot)
                await self._rest(_IDLE)
                continue
            with structlog.contextvars.bound_contextvars(job=job.id):
                await self._attempt(slot, job)
            if slot.losses:
                await self._pause(slot)
            elif slot.trouble:
                await self._rest(_TROUBLE)
        await slot.maker.close()

    async def _next(self) -> Job | None:
        """Claim a job, once what went wrong before is put right."""
        lacking = self._parts.room.lacking
        if all(inbox.name in lacking for inbox in self._parts.settings.inbox):
            return None
        try:
            if self._behind:
                await self._put_right()
            elif self._parts.archive.trouble:
                await asyncio.to_thread(self._parts.archive.catch_up)
            await self._publish_left()
            lease = self._parts.settings.queue.lease
            return await asyncio.to_thread(self._ledger.claim, self._owner, lease, [*lacking])
        except LedgerUnavailable as error:
            self._parts.room.doubt(None, error)
            return None

    async def _release(self, slot: Slot) -> None:
        """End a worker that has had nothing to do for long, so that others can use its device."""
        after = self._parts.settings.model.idle_release
        if after and slot.maker.pid and slot.idle() >= after:
            await slot.maker.close()
            log.info("released", device=slot.device, idle=after)

    async def _attempt(self, slot: Slot, job: Job) -> None:
        log.info("running", path=job.path, attempt=job.attempt, device=slot.device)
        inbox = self._parts.settings.inbox_named(job.inbox)
        slot.take(job)
        try:
            if inbox is None:
                await self._outcomes.fail(job, f"inbox {job.inbox!r} is not configured any more")
                return
            if why := await asyncio.to_thread(in_the_way, inbox.outbox, job.clip_name):
                await self._outcomes.fail(job, f"its clip cannot get into the outbox: {why}")
                return
            staging = await asyncio.to_thread(make_empty, inbox, job)
            outcome = await Attempt(self._parts, slot, inbox, job, staging).run(self.hurry)
            slot.count(outcome)
            await self._outcomes.conclude(slot, inbox, job, outcome, hurry=self.hurry.is_set())
        except OSError as error:  # a full disk, a share that went: not the job's fault
            self._parts.room.doubt(inbox, error)
            self._behind = True
            await self._give_back(job, told(error))
        finally:
            slot.take(None)
            await self._discard(inbox, job)

    async def _give_back(self, job: Job, why: str) -> None:
        with contextlib.suppress(LedgerUnavailable):
            if await asyncio.to_thread(self._ledger.give_back, job, why):
                log.info("given back", why=why)

    async def _publish_left(self) -> None:
        """Finish what stands between the fence and the outbox, where that can be done now."""
        async with self._carrying_on:
            for job in await asyncio.to_thread(self._history.unpublished, self._owner):
                inbox = self._parts.settings.inbox_named(job.inbox)
                if inbox is None or job.id in self._in_hand():
                    continue
                if inbox.name in self._parts.room.lacking:
                    continue
                log.warning("carrying on the publication", job=job.id)
                try:
                    await self._outcomes.publish(job)
                except OSError as error:
                    self._parts.room.doubt(inbox, error)

    async def _put_right(self) -> None:
        """Jobs that nobody is at go back, pictures where they belong, and old staging goes."""
        in_hand = self._in_hand()
        for job in await asyncio.to_thread(self._ledger.recover, self._owner, in_hand):
            log.warning("recovered", job=job)
        await asyncio.to_thread(self._parts.archive.catch_up)
        await asyncio.to_thread(self._sweep)
        self._behind = False

    async def _discard(self, inbox: Inbox | None, job: Job) -> None:
        """Remove the staging folder, unless a clip in it still waits to be published."""
        try:
            left = await asyncio.to_thread(self._history.unpublished, self._owner)
        except LedgerUnavailable:
            self._behind = True
            return
        if inbox is not None and all(other.id != job.id for other in left):
            await asyncio.to_thread(discard, inbox, job)

    def _sweep(self) -> None:
        """Remove the staging folders of attempts that no longer exist."""
        needed = self._history.unpublished(self._owner) + [s.job for s in self._slots if s.job]
        names = {name_of(job) for job in needed}
        for outbox in {inbox.outbox for inbox in self._parts.settings.inbox}:
            sweep(outbox, names)

    def _in_hand(self) -> list[int]:
        return [slot.job.id for slot in self._slots if slot.job]

    async def _pause(self, slot: Slot) -> None:
        """Wait before the next worker, longer after each one lost; new work does not shorten it."""
        end = time.monotonic() + slot.pause(self._parts.settings.queue.backoff)
        while (left := end - time.monotonic()) > 0 and not self.stopping.is_set():
            slot.alive_at = time.monotonic()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), min(left, _TROUBLE))

    async def _rest(self, seconds: float) -> None:
        """Wait for work, a while, or the end."""
        if not self.stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), seconds)
