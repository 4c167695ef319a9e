"""Jobs: list, show, cancel, retry and reprioritise them."""

from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from daemon.dispatch import control
from daemon.jobs.job import Event, Job, State
from daemon.jobs.queries import JobFilter
from daemon.publish.picture_location import with_local_paths
from daemon.services import Services
from daemon.web.request_body import RequestBody

_RETRY_BATCH = 200

JobNumber = Annotated[int, Path(alias="job", ge=1, le=2**63 - 1, description="Number of the job.")]


class JobPage(JobFilter):
    """Filter and page size of a list of jobs."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=50, ge=1, le=1000)
    before: int | None = Field(default=None, ge=1, le=2**63 - 1)


class RetryFilter(RequestBody):
    """State of the jobs to retry; pictures that have left the failed folder are skipped."""

    state: Literal["failed", "cancelled"] = "failed"


class RetryResult(BaseModel):
    """Number of jobs queued or pictures dropped again, and the reasons for those that were not."""

    queued: int
    refused: list[str]


class Priority(RequestBody):
    """Priority of a job; higher runs first."""

    priority: int = Field(ge=-100, le=100)


def find_job(services: Services, number: int) -> Job:
    """Return the job with this number. Raises HTTPException 404 and UnreadableRow."""
    job = services.queries.job(number)
    if job is None:
        raise HTTPException(404, f"there is no job {number}")
    return job


def create_router(services: Services) -> APIRouter:
    """Create the router of the jobs. Handlers are plain functions, so they run in threads."""
    router = APIRouter(prefix="/api", tags=["jobs"])

    @router.get("/jobs")
    def list_jobs(page: Annotated[JobPage, Query()]) -> list[Job]:
        """List the newest jobs; for the next page, pass the last id as `before`."""
        found = services.queries.newest(page, page.limit, page.before)
        return [with_local_paths(services.settings, job) for job in found]

    @router.get("/queue")
    def list_queue(limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> list[Job]:
        """List the queued jobs in the order in which they will run."""
        return [with_local_paths(services.settings, job) for job in services.queries.waiting(limit)]

    @router.get("/jobs/{job}")
    def get_job(number: JobNumber) -> Job:
        """Return one job."""
        return with_local_paths(services.settings, find_job(services, number))

    @router.get("/jobs/{job}/events")
    def list_job_events(number: JobNumber) -> list[Event]:
        """List the events of a job."""
        return services.queries.events(find_job(services, number).id)

    @router.post("/jobs/{job}/cancel")
    def cancel_job(number: JobNumber) -> Job:
        """Cancel a job: a queued one at once, a running one at its next step.

        A publication that cannot be completed is withdrawn.
        """
        return with_local_paths(
            services.settings, control.cancel(services, find_job(services, number).id)
        )

    @router.post("/jobs/{job}/retry")
    def retry_job(number: JobNumber) -> Job:
        """Queue a failed or cancelled job again and move its picture back to the inbox.

        A job that waits for a reason is tried again at once. If the picture was rejected at intake,
        it is dropped again, and this job stays failed.
        """
        return with_local_paths(
            services.settings, control.retry(services, find_job(services, number).id)
        )

    @router.post("/retry")
    def retry_jobs(jobs: RetryFilter) -> RetryResult:
        """Queue all failed, or all cancelled, jobs again; continues if one cannot be retried."""
        return _retry_all(services, jobs.state)

    @router.post("/jobs/{job}/priority")
    def set_priority(number: JobNumber, body: Priority) -> Job:
        """Set the priority of a queued job."""
        job = control.prioritise(services, find_job(services, number).id, body.priority)
        return with_local_paths(services.settings, job)

    return router


def _retry_all(services: Services, state: State) -> RetryResult:
    queued, refused, before = 0, [], None
    while found := services.queries.newest(JobFilter(state=state), _RETRY_BATCH, before):
        before = found[-1].id
        for job in found:
            if job.spec is None and job.picture_location not in ("failed", "inbox"):
                continue
            try:
                control.retry(services, job.id)
                queued += 1
            except control.Refused as error:
                refused.append(f"job {job.id}: {error}")
    return RetryResult(queued=queued, refused=refused)
