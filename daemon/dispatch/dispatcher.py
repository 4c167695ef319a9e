"""Dispatcher: each slot claims a job, runs an attempt and applies the outcome.

    claim -> attempt.py -> outcome.py

Attempts overlap so that the device does not wait. The next picture is prepared before a clip ends,
and the previous clip is encoded and published while the next one runs. Each attempt works in a
private folder `OUTBOX/.i2vd/<job>-<attempt>/`, which is removed at its end.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable

import structlog

from daemon.config.settings import Inbox
from daemon.dispatch.attempt import Attempt
from daemon.dispatch.obstacle import check_startable
from daemon.dispatch.outcome import Outcomes
from daemon.dispatch.running_job import RunningJob
from daemon.dispatch.slot import Slot
from daemon.fs.atomic import describe_os_error
from daemon.fs.probe import sweep
from daemon.jobs.claim_filter import ClaimFilter
from daemon.jobs.database import QueueUnavailable
from daemon.jobs.job import Job
from daemon.jobs.recovery import Recovery
from daemon.jobs.unreadable import fail_unreadable
from daemon.publish.staging import create_staging, remove_staging, remove_stale_staging
from daemon.services import Services
from daemon.storage.folder_threads import FolderHangs
from daemon.storage.scope import find_folder_error_in, output_folders
from pipeline.checkpoint.layout import ModelUnusable, find
from pipeline.children.generation import Clip, GenerationFailure
from pipeline.children.protocol import Rejected, Unavailable

_IDLE_SECONDS = 2.0
"""Polling interval of an empty queue; a new job wakes the slot at once."""
_PROBLEM_SECONDS = 5.0
"""Delay after a problem that is not the job's fault, such as a model that does not load."""

log = structlog.get_logger()


class Dispatcher:
    """Runs the slots. `stopping`: claim nothing more. `stop_now`: end the running attempts too."""

    def __init__(
        self, services: Services, claim_filter: Callable[[Slot], ClaimFilter | None]
    ) -> None:
        """Create a dispatcher. `claim_filter` returns which jobs a slot leaves to others."""
        self.stopping = asyncio.Event()
        self.stop_now = asyncio.Event()
        self._services = services
        self._claim_filter = claim_filter
        self._store = services.store
        self._queries = services.queries
        self._recovery = Recovery(services.database)
        self._owner = services.owner
        self._threads = services.folder_threads
        shared = services.database.shared
        self._shared_inboxes = [inbox.name for inbox in services.settings.inbox] if shared else None
        """With a shared queue: this host's inboxes; the queue may hold jobs of other inboxes."""
        self._outcomes = Outcomes(services)
        self._publishing_lock = asyncio.Lock()
        self._claim_lock = asyncio.Lock()
        self._slots: list[Slot] = []
        self._needs_cleanup = True

    async def begin(self) -> None:
        """Recover from a crash before anything new is claimed."""
        try:
            await self._recover()
        except QueueUnavailable as error:
            self._on_queue_unavailable(error)

    def wake(self) -> None:
        """Wake all slots: there may be a job to claim, or the daemon stops."""
        for slot in self._slots:
            slot.wakeup.set()

    def request_cleanup(self) -> None:
        """Request a recovery before the next claim, and wake all slots.

        Needed after a host has left, perhaps before it archived a finished picture. Also needed
        after a disk has come back, perhaps without the last writes.
        """
        self._needs_cleanup = True
        self.wake()

    async def run(self, slot: Slot) -> None:
        """Claim and run jobs on a slot until `stopping` is set, and wait for those that run.

        1. Wait for the model's files, and out the restart delay after a lost worker.
        2. Wait while the device is busy with a job that is not nearly done.
        3. Claim a job, after recovery and pending publications, and run it as a task.
        4. Without a job, unload an idle worker and wait.
        """
        self._slots.append(slot)
        async with asyncio.TaskGroup() as attempts:
            while not self.stopping.is_set():
                slot.last_turn = time.monotonic()
                slot.wakeup.clear()
                if (early := slot.not_before - time.monotonic()) > 0:
                    await self._wait(slot, early)
                elif slot.awaits_model and not await self._find_model(slot):
                    await self._tend()
                    await self._wait(slot, _PROBLEM_SECONDS)
                elif not slot.wants_next():
                    await self._tend()
                    await self._wait(slot, _IDLE_SECONDS)
                elif running_job := await self._claim_next(slot):
                    attempts.create_task(self._run_job(slot, running_job))
                else:
                    await self._unload_idle(slot)
                    await self._wait(slot, _IDLE_SECONDS)
        await slot.generator.close()

    async def _find_model(self, slot: Slot) -> bool:
        """Return True if the model's files are there; a worker could only fail without them."""
        try:
            await asyncio.to_thread(find, self._services.settings.model.name, small=True)
        except ModelUnusable as error:
            if slot.problem is None:
                log.error("model missing, waiting for it", device=slot.device, reason=str(error))
            slot.problem = str(error)
            return False
        if slot.problem is not None:
            log.info("model found", device=slot.device)
        slot.problem, slot.awaits_model = None, False
        return True

    async def clean_up_only(self) -> None:
        """Run the loop of a host without a slot: clean up until `stopping` is set."""
        while not self.stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_IDLE_SECONDS):
                    await self.stopping.wait()
            await self._tend()

    async def _tend(self) -> None:
        """Clean up without a claim: a blocked publication must not wait for a free device."""
        async with self._claim_lock:
            try:
                if not self._all_inboxes_blocked():
                    await self._clean_up()
            except QueueUnavailable as error:
                self._on_queue_unavailable(error)

    async def _claim_next(self, slot: Slot) -> RunningJob | None:
        """Claim a job and add it to the slot's running ones.

        Slots claim one at a time, so that `_running_ids` covers every claimed job.
        """
        async with self._claim_lock:
            job = await self._claim(slot)
            return slot.start(job) if job else None

    async def _claim(self, slot: Slot) -> Job | None:
        """Clean up, then claim the next job. Return None if there is none or nothing may start."""
        if self._all_inboxes_blocked():
            return None
        try:
            await self._clean_up()
            blocked = self._services.storage_health.blocked
            lease = self._services.settings.queue.lease
            return await asyncio.to_thread(
                self._store.claim,
                self._owner,
                lease,
                [*blocked],
                self._shared_inboxes,
                self._claim_filter(slot),
            )
        except QueueUnavailable as error:
            self._on_queue_unavailable(error)
            return None

    def _all_inboxes_blocked(self) -> bool:
        blocked = self._services.storage_health.blocked
        return all(inbox.name in blocked for inbox in self._services.settings.inbox)

    async def _clean_up(self) -> None:
        await self._recover_departed()
        if self._needs_cleanup:
            await self._recover()
        else:
            archive, inboxes = self._services.archive, self._services.settings.inbox
            due = [inbox for inbox in inboxes if archive.has_due(inbox)]
            await self._run_for_each(due, archive.archive_pending)
        await self._resume_publications()
        await self._check_waiting()

    def _on_queue_unavailable(self, error: QueueUnavailable) -> None:
        self._services.storage_health.report_error(None, error)
        self._needs_cleanup = True  # the last write may or may not have been committed

    async def _recover_departed(self) -> None:
        """Take over the jobs and publications of hosts that have departed.

        Starts once the queue has been reachable for a lease, so that hosts had time to send a
        heartbeat after an outage.
        """
        lease = self._services.settings.queue.lease
        if self._shared_inboxes is None or self._services.database.seconds_reachable() < lease:
            return
        found = await asyncio.to_thread(self._recovery.recover_departed, self._owner)
        seen = [
            name
            for name in self._shared_inboxes
            if name not in self._services.storage_health.blocked
        ]
        found += await asyncio.to_thread(
            self._recovery.adopt_publications, self._owner, lease, seen
        )
        if found:
            log.warning("jobs taken over from a departed host", jobs=found)
            self._needs_cleanup = True

    async def _unload_idle(self, slot: Slot) -> None:
        """Stop a worker that has been idle for `model.unload_after_idle`, to free its device."""
        after = self._services.settings.model.unload_after_idle
        if after and slot.generator.pid and slot.idle_seconds() >= after:
            await slot.generator.close()
            log.info("idle worker stopped", device=slot.device, idle=after)

    async def _run_job(self, slot: Slot, running_job: RunningJob) -> None:
        with structlog.contextvars.bound_contextvars(job=running_job.job.id):
            try:
                await self._run_attempt(slot, running_job)
            finally:
                slot.finish(running_job)
        delay = slot.restart_delay(self._services.settings.queue.backoff)
        if slot.consecutive_failures or slot.problem:
            slot.not_before = time.monotonic() + (delay or _PROBLEM_SECONDS)

    async def _run_attempt(self, slot: Slot, running_job: RunningJob) -> None:
        job = running_job.job
        inbox = self._services.settings.inbox_named(job.inbox)
        try:
            if inbox is None:
                await self._outcomes.fail(job, f"inbox {job.inbox!r} is not configured any more")
                return
            await self._threads.run(inbox, self._services.markers.check, inbox)
            await self._threads.run(inbox, check_startable, inbox, job)
            log.info("job started", path=job.path, attempt=job.attempt, device=slot.device)
            staging = await self._threads.run(inbox, create_staging, inbox, job)
            outcome = await Attempt(self._services, slot, inbox, running_job, staging).run(
                self.stopping, self.stop_now
            )
            slot.record_outcome(outcome)
            await self._apply_outcome(slot, inbox, job, outcome)
        except OSError as error:
            await self._on_error(inbox, job, error)
        finally:
            await self._discard(inbox, job)

    async def _apply_outcome(
        self,
        slot: Slot,
        inbox: Inbox,
        job: Job,
        outcome: Clip | GenerationFailure | Rejected | Unavailable,
    ) -> None:
        """Apply the outcome; while a shared queue is unavailable, keep the clip and try again."""
        while True:
            try:
                stopped = self.stop_now.is_set()
                return await self._outcomes.apply(slot, inbox, job, outcome, stopped=stopped)
            except QueueUnavailable as error:
                if self.stop_now.is_set() or not self._services.database.shared:
                    raise
                self._services.storage_health.report_error(None, error)
                slot.last_turn = time.monotonic()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_IDLE_SECONDS):
                        await self.stop_now.wait()

    async def _on_error(self, inbox: Inbox | None, job: Job, error: OSError) -> None:
        """Block the inbox if the error affects its folders or the queue; else only the job waits.

        The job has used no try.
        """
        trouble = (
            error if inbox is None else await find_folder_error_in(self._threads, inbox, error)
        )
        if trouble is None:
            with contextlib.suppress(QueueUnavailable):
                await self._outcomes.postpone(job, describe_os_error(error))
            return
        self._services.storage_health.report_error(inbox, trouble)
        self._needs_cleanup = True
        await self._release_job(job, describe_os_error(trouble))

    async def _release_job(self, job: Job, reason: str) -> None:
        with contextlib.suppress(QueueUnavailable):
            if await asyncio.to_thread(self._store.release, job, reason):
                log.info("job released", reason=reason)

    async def _resume_publications(self) -> None:
        """Publish or withdraw the clips of this host's jobs in `publishing` that are due.

        Those in blocked inboxes wait.
        """
        async with self._publishing_lock:
            for job in await asyncio.to_thread(self._queries.due_publications, self._owner):
                inbox = self._services.settings.inbox_named(job.inbox)
                if inbox is None or job.id in self._running_ids():
                    continue
                if inbox.name in self._services.storage_health.blocked:
                    continue
                if not job.waits:
                    log.warning("publication resumed", job=job.id)
                try:
                    await (
                        self._outcomes.withdraw(job) if job.cancel else self._outcomes.publish(job)
                    )
                except OSError as error:
                    await self._on_error(inbox, job, error)

    async def _check_waiting(self) -> None:
        """Let the jobs that are due again wait longer, without a claim, while they cannot start."""
        blocked = self._services.storage_health.blocked
        inboxes = {i.name: i for i in self._services.settings.inbox if i.name not in blocked}
        for job in await asyncio.to_thread(self._queries.due_waiting, [*inboxes]):
            inbox = inboxes[job.inbox]
            try:
                await self._threads.run(inbox, check_startable, inbox, job)
            except OSError as error:
                trouble = await find_folder_error_in(self._threads, inbox, error)
                if trouble is not None:
                    self._services.storage_health.report_error(inbox, trouble)
                    return
                await self._outcomes.wait_longer(job, describe_os_error(error))

    async def _recover(self) -> None:
        """Requeue orphaned jobs, archive pending pictures and remove stale staging folders."""
        self._needs_cleanup = False  # a request that comes meanwhile counts
        await asyncio.to_thread(fail_unreadable, self._services.database, self._owner)
        running = self._running_ids()
        for job in await asyncio.to_thread(self._recovery.recover, self._owner, running):
            log.warning("job recovered", job=job)
        inboxes = self._services.settings.inbox
        await self._run_for_each(inboxes, self._services.archive.archive_pending)
        await self._run_for_each(inboxes, self._sweep)

    async def _discard(self, inbox: Inbox | None, job: Job) -> None:
        """Remove the staging folder, unless its clip still waits to be published."""
        try:
            unpublished = await asyncio.to_thread(self._queries.unpublished, self._owner)
        except QueueUnavailable:
            self._needs_cleanup = True
            return
        if inbox is not None and all(other.id != job.id for other in unpublished):
            with contextlib.suppress(FolderHangs):
                await self._threads.run(inbox, remove_staging, inbox, job)

    async def _run_for_each(
        self, inboxes: Iterable[Inbox], call: Callable[[Inbox], object]
    ) -> None:
        """Call a function for each inbox at once; those whose folders hang are blocked."""

        async def run(inbox: Inbox) -> None:
            try:
                await self._threads.run(inbox, call, inbox)
            except FolderHangs as error:
                self._services.storage_health.report_error(inbox, error)

        await asyncio.gather(*map(run, inboxes))

    def _sweep(self, inbox: Inbox) -> None:
        """Remove what a crash left: staging folders, unfinished copies, probes."""
        local = {(r.job.id, r.job.attempt) for slot in self._slots for r in slot.running}
        if not self._owns_outbox(inbox):
            return
        remove_stale_staging(inbox.outbox, lambda: self._queries.active_attempts() | local)
        for folder in output_folders(inbox).values():
            sweep(folder)

    def _owns_outbox(self, inbox: Inbox) -> bool:
        """Return False if the outbox is away, or another queue's, which has its own staging."""
        try:
            self._services.markers.check(inbox, "outbox")
        except OSError:
            return False
        return True

    def _running_ids(self) -> list[int]:
        return [running_job.job.id for slot in self._slots for running_job in slot.running]

    async def _wait(self, slot: Slot, seconds: float) -> None:
        """Wait for the slot's wakeup, at most `seconds`; return at once when stopping."""
        if not self.stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await slot.wakeup.wait()
