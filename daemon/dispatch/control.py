"""Job control: cancel, retry and reprioritise a job on behalf of an operator."""

import contextlib

import structlog

from daemon.fs.atomic import describe_os_error
from daemon.jobs.database import QueueUnavailable
from daemon.jobs.job import Job
from daemon.publish import drop_files
from daemon.services import Services
from daemon.storage.folder_threads import FolderHangs

log = structlog.get_logger()


class Refused(Exception):
    """The state of the job does not permit the action; the message gives the state."""


def cancel(services: Services, job_id: int) -> Job:
    """Cancel a queued job at once, a running one at its next step. Raises Refused.

    A publication is withdrawn by its host, unless the clip is in the outbox already.
    """
    if not services.operator.cancel(job_id):
        raise Refused(f"job {job_id} is {_job(services, job_id).state}, not waiting or running")
    job = _job(services, job_id)
    log.info(
        "job cancelled" if job.state == "cancelled" else "cancel requested",
        job=job_id,
        path=job.path,
    )
    inbox = services.settings.inbox_named(job.inbox)
    if inbox is not None:
        with contextlib.suppress(FolderHangs):  # done when its folders answer
            services.folder_threads.call(inbox, services.archive.archive_job, job)
    return _job(services, job_id)


def retry(services: Services, job_id: int) -> Job:
    """Requeue a failed or cancelled job and move its picture back to the inbox. Raises Refused.

    A job that waits for a reason is tried again at once. A picture that was rejected at intake has
    no request to repeat: it is dropped again, and the job stays failed.
    """

    def restore(job: Job) -> str | None:
        inbox = services.settings.inbox_named(job.inbox)
        if inbox is None:
            return None
        return services.folder_threads.call(inbox, drop_files.restore, inbox, job)

    if services.operator.hasten(job_id):
        job = _job(services, job_id)
        log.info("retry requested", job=job_id, path=job.path)
        return job
    try:
        if services.operator.drop_again(job_id, restore):
            job = _job(services, job_id)
            log.info("picture dropped again", job=job_id, path=job.path)
            return job
        is_queued = services.operator.retry(job_id, restore)
    except QueueUnavailable:
        raise
    except OSError as error:
        reason = describe_os_error(error)
        raise Refused(f"the picture of job {job_id} cannot go back: {reason}") from error
    if not is_queued:
        job = _job(services, job_id)
        if job.state not in ("failed", "cancelled"):
            raise Refused(f"job {job_id} is {job.state}, not failed or cancelled")
        raise Refused(
            f"the picture of job {job_id} is not in its folder any more, or another "
            f"lies at {job.path} in the inbox; drop it again"
        )
    job = _job(services, job_id)
    log.info("job requeued", job=job_id, path=job.path)
    return job


def prioritise(services: Services, job_id: int, priority: int) -> Job:
    """Set the priority of a waiting job. Raises Refused."""
    if not services.operator.prioritise(job_id, priority):
        raise Refused(f"job {job_id} is {_job(services, job_id).state}, not waiting")
    return _job(services, job_id)


def _job(services: Services, job_id: int) -> Job:
    job = services.queries.job(job_id)
    if job is None:
        raise Refused(f"there is no job {job_id}")
    return job
