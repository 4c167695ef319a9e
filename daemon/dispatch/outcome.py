"""Outcome of an attempt: publish the clip, or retry, release, fail or cancel the job."""

import asyncio
import hashlib
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import structlog

from daemon.config.settings import Inbox
from daemon.dispatch.slot import Slot
from daemon.fs.atomic import CommitMethod, atomic_write, probe_commit_method
from daemon.fs.safe_path import open_beneath
from daemon.jobs.job import Job
from daemon.jobs.store import CANCELLED
from daemon.publish.publisher import SIDECAR, ClipLost, publish, withdraw
from daemon.publish.rejected_clip import keep_rejected_clip
from daemon.publish.staging import remove_staging, staging_of
from daemon.services import Services
from daemon.storage.scope import StorageFailure
from pipeline.children.generation import Clip, GenerationFailure
from pipeline.children.protocol import Rejected, Unavailable
from pipeline.request.spec import Spec
from pipeline.sidecar import AppliedRule, Source, compose_sidecar

_MIN_WAIT_SECONDS = 2.0
_MAX_WAIT_SECONDS = 300.0
_WAITS_UNTIL_LOST = 6
"""Two minutes in all; NFS shows a new name after one at the latest."""

log = structlog.get_logger()


class Outcomes:
    """Applies each outcome to the queue, the outbox and the archive, in that order.

    Every method raises OSError if a folder or the queue is unavailable.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._store = services.store
        self._run = services.folder_threads.run
        self._commit_methods: dict[Path, CommitMethod] = {}

    async def apply(
        self,
        slot: Slot,
        inbox: Inbox,
        job: Job,
        outcome: Clip | GenerationFailure | Rejected | Unavailable,
        *,
        stopped: bool,
    ) -> None:
        """Apply the outcome of an attempt; `stopped` means that the stop of the daemon ended it."""
        queue = self._services.settings.queue
        match outcome:
            case Clip():
                await self._begin_publication(inbox, job, outcome)
            case Rejected():
                await self._run(inbox, self._services.markers.check, inbox, "path")
                if outcome.gone:
                    await self._picture_gone(job)
                else:
                    await self.fail(job, outcome.reason)
            case GenerationFailure() if stopped or outcome.kind == "ended":
                await self._release(job, "the daemon was stopped" if stopped else outcome.reason)
            case GenerationFailure(kind="cancelled"):
                log.info("job cancelled")
                await asyncio.to_thread(self._store.cancelled, job, CANCELLED)
                await self.archive(job)
            case Unavailable():
                await self._run(inbox, self._services.markers.check, inbox, "path")
                await self.postpone(job, outcome.reason)
            case GenerationFailure(kind="load"):
                slot.problem = outcome.reason
                log.error("worker unavailable, job released", reason=outcome.reason)
                await asyncio.to_thread(self._store.release, job, outcome.reason)
            case GenerationFailure() if outcome.kind == "disk" or (
                outcome.retry and await self._is_blocked(inbox)
            ):
                raise StorageFailure(outcome.reason)
            case GenerationFailure() if outcome.retry and job.failures + 1 < queue.max_attempts:
                delay = queue.backoff * 2**job.failures
                log.warning("attempt failed, retry scheduled", reason=outcome.reason, seconds=delay)
                self._services.metrics.retries.inc()
                await asyncio.to_thread(self._store.retry_later, job, outcome.reason, delay)
            case GenerationFailure(kind="quality"):
                await self._keep_rejected_clip(inbox, job, outcome.reason)
            case GenerationFailure():
                await self.fail(job, outcome.reason)

    async def publish(self, job: Job, *, first: bool = False) -> None:
        """Publish the clip: `publishing -> done`.

        1. Move the sidecar and then the clip to their names. Unless this is the `first` try, an
           earlier try may have moved them already.
        2. Store the poster, mark the job as done, and record metrics.
        3. Remove the staging folder and archive the picture.
        """
        inbox = self._services.settings.inbox_named(job.inbox)
        assert inbox is not None
        assert job.result is not None
        try:
            publication = await self._publication(inbox, job)
            clip = await self._run(inbox, publish, *publication, first=first)
        except ClipLost as error:
            await self._requeue_lost(inbox, job, str(error))
        except OSError:
            self._commit_methods.pop(inbox.outbox, None)  # perhaps another file system by now
            raise
        else:
            await self._finish(inbox, job, clip)

    async def withdraw(self, job: Job) -> None:
        """Withdraw a publication: `publishing -> cancelled`, or `done` if its clip has a name."""
        inbox = self._services.settings.inbox_named(job.inbox)
        assert inbox is not None
        await self._run(inbox, self._services.markers.check, inbox, "outbox")
        clip = await self._run(inbox, withdraw, *await self._publication(inbox, job))
        if clip is not None:
            await self._finish(inbox, job, clip)
        elif await asyncio.to_thread(self._store.withdrawn, job):
            log.info("publication withdrawn", job=job.id)
            await self._run(inbox, remove_staging, inbox, job)
            await self.archive(job)

    async def postpone(self, job: Job, reason: str) -> None:
        """Let this job alone wait: `running -> queued`, or blocked in `publishing`.

        The delay doubles with each time in a row, and a reason is logged once.
        """
        delay, is_new = _delay(job), job.error != reason
        if await asyncio.to_thread(self._store.postpone, job, reason, delay):
            if is_new:
                log.warning("job waiting", job=job.id, path=job.path, reason=reason)
        elif await asyncio.to_thread(self._store.block_publication, job, reason, delay) and is_new:
            log.error("publication blocked", job=job.id, path=job.path, reason=reason)

    async def wait_longer(self, job: Job, reason: str) -> None:
        """Let a queued job wait longer, because the obstacle is still there."""
        changed = await asyncio.to_thread(self._store.wait_longer, job, reason, _delay(job))
        if changed and job.error != reason:
            log.warning("job waiting", job=job.id, path=job.path, reason=reason)

    async def _publication(
        self, inbox: Inbox, job: Job
    ) -> tuple[Path, Path, str, CommitMethod, str]:
        assert job.result is not None
        method = await self._commit_method(inbox)
        digest = job.result["sidecar_sha256"]
        return staging_of(inbox, job), inbox.outbox, job.clip_name, method, digest

    async def _requeue_lost(self, inbox: Inbox, job: Job, reason: str) -> None:
        """Generate a clip again that is neither in staging nor in the outbox.

        On a share another host may just have moved it there, and this host sees that only after
        some time.
        """
        await self._run(inbox, self._services.markers.check, inbox, "outbox")
        if self._services.database.shared and job.waits < _WAITS_UNTIL_LOST:
            await self.postpone(job, reason)
            return
        clip = await self._run(inbox, withdraw, *await self._publication(inbox, job))
        if clip is not None:
            await self._finish(inbox, job, clip)
        elif await asyncio.to_thread(
            self._store.requeue_publication, job, reason, _MIN_WAIT_SECONDS
        ):
            log.error("clip lost, job requeued", job=job.id, path=job.path, reason=reason)
            await self._run(inbox, remove_staging, inbox, job)

    async def _finish(self, inbox: Inbox, job: Job, clip: Path) -> None:
        """Record a clip that has its name in the outbox: `publishing -> done`."""
        assert job.spec is not None
        assert job.result is not None
        poster = await self._run(inbox, self._services.posters.store, inbox, job)
        result = {**job.result, "clip": str(clip.relative_to(inbox.outbox)), "poster": poster}
        await asyncio.to_thread(self._store.done, job, result)
        self._services.storage_health.report_success(inbox)
        log.info(
            "job done",
            job=job.id,
            clip=str(clip),
            degraded=job.result["degraded"],
            seconds=round(sum(job.result["seconds"].values()), 1),
        )
        self._services.metrics.clip_seconds.labels(job.spec.preset).observe(
            max(0.0, time.time() - job.created)
        )
        await self._run(inbox, remove_staging, inbox, job)
        await self.archive(job)

    async def fail(self, job: Job, reason: str) -> None:
        """Fail the job, `running -> failed`, and move its picture to the failed folder."""
        log.error("job failed", job=job.id, reason=reason)
        if await asyncio.to_thread(self._store.fail, job, reason):
            await self.archive(job)

    async def _release(self, job: Job, reason: str) -> None:
        """Release the job, `running -> queued`, uncounted, unless its lease was lost."""
        if await asyncio.to_thread(self._store.release, job, reason):
            log.info("job released", reason=reason)
        else:
            log.info("lease lost, attempt abandoned")

    async def _keep_rejected_clip(self, inbox: Inbox, job: Job, reason: str) -> None:
        """Fail the job, `running -> failed`, and keep the rejected clip for inspection."""
        log.error("job failed", job=job.id, reason=reason)
        if await asyncio.to_thread(self._store.fail, job, reason):
            await self._run(inbox, keep_rejected_clip, inbox, job)
            await self.archive(job)

    async def archive(self, job: Job) -> None:
        """Move the picture to the archive or the failed folder once no job needs it."""
        inbox = self._services.settings.inbox_named(job.inbox)
        if inbox is not None:
            await self._run(inbox, self._services.archive.archive_job, job)

    async def _begin_publication(self, inbox: Inbox, job: Job, clip: Clip) -> None:
        """Write the sidecar to staging, `running -> publishing`, and publish.

        Does nothing more if the lease was lost.
        """
        assert job.spec is not None
        sidecar = compose_sidecar(
            clip,
            generator=f"i2vd {version('i2vd')}",
            job=str(job.id),
            attempt=job.attempt,
            created_at=datetime.now(UTC),
            source=Source(path=job.path, sha256=job.sha256, **job.source),
            rule=AppliedRule(name=job.rule or "", digest=job.rules_digest or ""),
            requested=job.spec,
            earlier=job.fallbacks,
        )
        text = sidecar.model_dump_json(indent=2) + "\n"
        await self._run(inbox, _write_sidecar, inbox, job, text)
        result = {
            "sidecar_sha256": hashlib.sha256(text.encode()).hexdigest(),
            **sidecar.applied.model_dump(mode="json"),
            "degraded": sidecar.degraded,
            "seconds": clip.made.seconds,
            "unread": clip.made.unread,
        }
        lease = self._services.settings.queue.lease
        if await asyncio.to_thread(self._store.begin_publication, job, result, lease):
            self._record_metrics(job.spec, clip, degraded=sidecar.degraded)
            await self.publish(job.model_copy(update={"result": result}), first=True)

    async def _is_blocked(self, inbox: Inbox) -> bool:
        await self._services.storage_health.check()
        return inbox.name in self._services.storage_health.blocked

    def _record_metrics(self, spec: Spec, clip: Clip, *, degraded: bool) -> None:
        metrics, durations = self._services.metrics, self._services.durations
        for stage, seconds in clip.made.seconds.items():
            metrics.stage_seconds.labels(stage).observe(seconds)
        if clip.made.peak_memory is not None:
            metrics.peak_memory.labels(spec.preset).set(clip.made.peak_memory)
        metrics.motion.observe(clip.made.measurements.motion)
        metrics.similarity.observe(clip.made.measurements.similarity)
        if degraded:
            metrics.degraded.inc()
            return
        seconds = sum(clip.made.seconds.values())
        made = clip.as_made(spec)
        if (predicted := durations.seconds(made)) is not None:
            metrics.predicted_seconds.inc(predicted)
            metrics.actual_seconds.inc(seconds)
        durations.record(made, clip.rung.mode, seconds)

    async def _picture_gone(self, job: Job) -> None:
        """Cancel the job, because its picture was removed or replaced before the attempt."""
        log.info("job cancelled, picture gone", path=job.path)
        reason = "the picture was taken away, or replaced, before its turn"
        await asyncio.to_thread(self._store.cancelled, job, reason)
        await asyncio.to_thread(self._store.moved, job, "gone")

    async def _commit_method(self, inbox: Inbox) -> CommitMethod:
        if inbox.outbox not in self._commit_methods:
            self._commit_methods[inbox.outbox] = await self._run(
                inbox, probe_commit_method, inbox.outbox
            )
        return self._commit_methods[inbox.outbox]


def _write_sidecar(inbox: Inbox, job: Job, text: str) -> None:
    staging = staging_of(inbox, job).relative_to(inbox.outbox)
    with open_beneath(inbox.outbox, staging, make=False) as folder:
        atomic_write(folder / SIDECAR, text)


def _delay(job: Job) -> float:
    return min(_MAX_WAIT_SECONDS, _MIN_WAIT_SECONDS * 2.0 ** min(job.waits, 30))
