"""What an operator may do with a job: cancel it, or try it again."""

from daemon import archive
from daemon.history import History
from daemon.job import Job
from daemon.ledger import Ledger
from daemon.settings import Settings


class Refused(Exception):
    """The job is not in a state for that; the message says so."""


def cancel(settings: Settings, ledger: Ledger, history: History, job_id: int) -> Job:
    """A waiting job at once, a running one at its next step. Raises Refused."""
    if not ledger.cancel(job_id):
        raise Refused(f"job {job_id} is {_job(history, job_id).state}, not waiting or running")
    archive.settle(ledger, settings, _job(history, job_id))
    return _job(history, job_id)


def retry(settings: Settings, ledger: Ledger, history: History, job_id: int) -> Job:
    """Put a failed or cancelled job into the queue, and its picture into the inbox.

    Raises Refused.
    """

    def bring_back(job: Job) -> bool:
        inbox = settings.inbox_named(job.inbox)
        return inbox is not None and archive.bring_back(inbox, job)

    if not ledger.retry(job_id, bring_back):
        job = _job(history, job_id)
        if job.state not in ("failed", "cancelled"):
            raise Refused(f"job {job_id} is {job.state}, not failed or cancelled")
        if job.spec is None:
            raise Refused(f"job {job_id} never became a request: {job.error}; drop it again")
        raise Refused(
            f"the picture of job {job_id} is not at {job.whereabouts_path} any more, or another "
            f"lies at {job.path} in the inbox; drop it again"
        )
    return _job(history, job_id)


def _job(history: History, job_id: int) -> Job:
    job = history.job(job_id)
    if job is None:
        raise Refused(f"there is no job {job_id}")
    return job
