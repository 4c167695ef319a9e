"""Dispatch: each slot claims a job, attempts it, and carries the outcome on.

    claim -> attempt.py -> outcome.py

Attempts overlap so that the device does not wait: while it is at the end of one clip the next
picture is prepared, and while it is at that one the clip before is written and published. Each
attempt works in a private folder `OUTBOX/.i2vd/<job>-<attempt>/`, which ends with it.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable

import structlog

from daemon.config.settings import Inbox
from daemon.dispatch.attempt import Attempt
from daemon.dispatch.outcome import Outcomes
from daemon.dispatch.running_job import Hand
from daemon.dispatch.slot import Slot
from daemon.fs.atomic import describe_os_error
from daemon.jobs.claim_filter import Fit
from daemon.jobs.database import LedgerUnavailable
from daemon.jobs.job import Job
from daemon.jobs.recovery import Takeover
from daemon.publish.publisher import in_the_way
from daemon.publish.staging import discard, make_empty, sweep
from daemon.services import Services
from pipeline.children.generation import Clip, NoClip
from pipeline.children.protocol import Rejected

_IDLE = 2.0
"""Seconds between two looks into an empty queue; a new job wakes the slot at once."""
_TROUBLE = 5.0
"""Seconds to wait when the trouble is not the job's: a model that does not load."""

log = structlog.get_logger()


class Dispatcher:
    """Runs the slots. `stopping`: claim no more; `hurry`: end the running attempts too."""

    def __init__(self, services: Services, fit: Callable[[Slot], Fit | None]) -> None:
        """`fit` says which jobs a slot leaves to others."""
        self.stopping = asyncio.Event()
        self.hurry = asyncio.Event()
        self._services = services
        self._fit = fit
        self._ledger = services.ledger
        self._history = services.history
        self._takeover = Takeover(services.database)
        self._owner = services.owner
        shared = services.database.shared
        self._among = [inbox.name for inbox in services.settings.inbox] if shared else None
        """In a fleet: the inboxes that this host knows, for others may be another's."""
        self._outcomes = Outcomes(services)
        self._carrying_on = asyncio.Lock()
        self._claiming = asyncio.Lock()
        self._slots: list[Slot] = []
        self._behind = True

    async def begin(self) -> None:
        """Put right what a crash left, before anything new is claimed."""
        try:
            await self._put_right()
        except LedgerUnavailable as error:
            self._services.room.report_error(None, error)

    def wake(self) -> None:
        """There may be something to claim, or the end has come."""
        for slot in self._slots:
            slot.turned.set()

    def look_behind(self) -> None:
        """There may be something left over, and there may be something to claim.

        Another host has gone, perhaps before it put a finished picture away; or a disk is back,
        perhaps without what was written last.
        """
        self._behind = True
        self.wake()

    async def run(self, slot: Slot) -> None:
        """Carry on what was being published, then work until told to stop."""
        self._slots.append(slot)
        async with asyncio.TaskGroup() as attempts:
            while not self.stopping.is_set():
                slot.alive_at = time.monotonic()
                slot.turned.clear()
                if (early := slot.not_before - time.monotonic()) > 0:
                    await self._rest(slot, early)
                elif not slot.wants_next():
                    await self._rest(slot, _IDLE)
                elif hand := await self._next(slot):
                    attempts.create_task(self._attempt(slot, hand))
                else:
                    await self._release(slot)
                    await self._rest(slot, _IDLE)
        await slot.maker.close()

    async def tidy(self) -> None:
        """What a host without a slot does until told to stop: put right what went wrong before."""
        while not self.stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), _IDLE)
            try:
                if not self._is_stopped_by_room():
                    await self._tidy_up()
            except LedgerUnavailable as error:
                self._lose_touch(error)

    async def _next(self, slot: Slot) -> Hand | None:
        """Claim a job; one slot after the other, so that each job that is claimed is in a hand."""
        async with self._claiming:
            job = await self._claimed(slot)
            return slot.take(job) if job else None

    async def _claimed(self, slot: Slot) -> Job | None:
        """The next job, once what went wrong before is put right."""
        if self._is_stopped_by_room():
            return None
        try:
            await self._tidy_up()
            lacking = self._services.room.blocked
            lease = self._services.settings.queue.lease
            return await asyncio.to_thread(
                self._ledger.claim, self._owner, lease, [*lacking], self._among, self._fit(slot)
            )
        except LedgerUnavailable as error:
            self._lose_touch(error)
            return None

    def _is_stopped_by_room(self) -> bool:
        lacking = self._services.room.blocked
        return all(inbox.name in lacking for inbox in self._services.settings.inbox)

    async def _tidy_up(self) -> None:
        await self._take_over()
        if self._behind:
            await self._put_right()
        elif self._services.archive.trouble:
            await asyncio.to_thread(self._services.archive.catch_up)
        await self._publish_left()

    def _lose_touch(self, error: LedgerUnavailable) -> None:
        self._services.room.report_error(None, error)
        self._behind = True  # what the queue did last before it went is not known

    async def _take_over(self) -> None:
        """What hosts left that fell silent; not before they had time to say that they are there."""
        lease = self._services.settings.queue.lease
        if self._among is None or self._services.database.in_touch() < lease:
            return
        found = await asyncio.to_thread(self._takeover.take_over, self._owner)
        seen = [name for name in self._among if name not in self._services.room.blocked]
        found += await asyncio.to_thread(self._takeover.adopt, self._owner, lease, seen)
        if found:
            log.warning("taken over from a host that fell silent", jobs=found)
            self._behind = True

    async def _release(self, slot: Slot) -> None:
        """End a worker that has had nothing to do for long, so that others can use its device."""
        after = self._services.settings.model.idle_release
        if after and slot.maker.pid and slot.idle() >= after:
            await slot.maker.close()
            log.info("released", device=slot.device, idle=after)

    async def _attempt(self, slot: Slot, hand: Hand) -> None:
        with structlog.contextvars.bound_contextvars(job=hand.job.id):
            try:
                await self._make(slot, hand)
            finally:
                slot.drop(hand)
        waits = slot.pause(self._services.settings.queue.backoff)
        if slot.losses or slot.trouble:
            slot.not_before = time.monotonic() + (waits or _TROUBLE)

    async def _make(self, slot: Slot, hand: Hand) -> None:
        job = hand.job
        log.info("running", path=job.path, attempt=job.attempt, device=slot.device)
        inbox = self._services.settings.inbox_named(job.inbox)
        try:
            if inbox is None:
                await self._outcomes.fail(job, f"inbox {job.inbox!r} is not configured any more")
                return
            await asyncio.to_thread(self._services.storage.check, inbox)
            if why := await asyncio.to_thread(in_the_way, inbox.outbox, job.clip_name):
                await self._outcomes.fail(job, f"its clip cannot get into the outbox: {why}")
                return
            staging = await asyncio.to_thread(make_empty, inbox, job)
            outcome = await Attempt(self._services, slot, inbox, hand, staging).run(
                self.stopping, self.hurry
            )
            slot.count(outcome)
            await self._conclude(slot, inbox, job, outcome)
        except OSError as error:  # a full disk, a share that went: not the job's fault
            self._services.room.report_error(inbox, error)
            self._behind = True
            await self._give_back(job, describe_os_error(error))
        finally:
            await self._discard(inbox, job)

    async def _conclude(
        self, slot: Slot, inbox: Inbox, job: Job, outcome: Clip | NoClip | Rejected
    ) -> None:
        """Carry the outcome on; while a shared queue is away the work waits for it in staging."""
        while True:
            try:
                hurry = self.hurry.is_set()
                return await self._outcomes.conclude(slot, inbox, job, outcome, hurry=hurry)
            except LedgerUnavailable as error:
                if self.hurry.is_set() or not self._services.database.shared:
                    raise
                self._services.room.report_error(None, error)
                slot.alive_at = time.monotonic()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.hurry.wait(), _IDLE)

    async def _give_back(self, job: Job, why: str) -> None:
        with contextlib.suppress(LedgerUnavailable):
            if await asyncio.to_thread(self._ledger.give_back, job, why):
                log.info("given back", why=why)

    async def _publish_left(self) -> None:
        """Finish what stands between the fence and the outbox, where that can be done now."""
        async with self._carrying_on:
            for job in await asyncio.to_thread(self._history.unpublished, self._owner):
                inbox = self._services.settings.inbox_named(job.inbox)
                if inbox is None or job.id in self._in_hand():
                    continue
                if inbox.name in self._services.room.blocked:
                    continue
                if job.id not in self._outcomes.held:
                    log.warning("carrying on the publication", job=job.id)
                try:
                    await self._outcomes.publish(job)
                except OSError as error:
                    self._services.room.report_error(inbox, error)

    async def _put_right(self) -> None:
        """Jobs that nobody is at go back, pictures where they belong, and old staging goes."""
        in_hand = self._in_hand()
        for job in await asyncio.to_thread(self._takeover.recover, self._owner, in_hand):
            log.warning("recovered", job=job)
        await asyncio.to_thread(self._services.archive.catch_up)
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
        ours = {(h.job.id, h.job.attempt) for s in self._slots for h in s.hands}
        for outbox in {inbox.outbox for inbox in self._services.settings.inbox}:
            sweep(outbox, lambda: self._history.at_work() | ours)

    def _in_hand(self) -> list[int]:
        return [hand.job.id for slot in self._slots for hand in slot.hands]

    async def _rest(self, slot: Slot, seconds: float) -> None:
        """Wait until the slot may have something to do, a while, or the end."""
        if not self.stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(slot.turned.wait(), seconds)
