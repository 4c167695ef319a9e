"""Jobs over http: look at them, cancel them, try them again, make them sooner."""

from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Path, Query
from pydantic import BaseModel, Field

from daemon.dispatch import control
from daemon.jobs.job import Event, Job, State
from daemon.jobs.queries import JobFilter
from daemon.publish.originals import with_local_paths
from daemon.services import Services

_AT_ONCE = 200

Number = Annotated[int, Path(alias="job", ge=1, le=2**63 - 1, description="Number of the job.")]


class Page(JobFilter):
    """Which jobs, and how many of them."""

    limit: int = Field(default=50, ge=1, le=1000)
    before: int | None = Field(default=None, ge=1, le=2**63 - 1)


class Ended(BaseModel):
    """Which jobs are tried again; those that never became a request are not among them."""

    state: Literal["failed", "cancelled"] = "failed"


class Retried(BaseModel):
    """How many are waiting again, and why others are not."""

    queued: int
    refused: list[str]


class Priority(BaseModel):
    """Jobs of a higher priority are made first."""

    priority: int = Field(ge=-100, le=100)


def find(services: Services, number: int) -> Job:
    """The job of that number. Raises HTTPException 404."""
    job = services.queries.job(number)
    if job is None:
        raise HTTPException(404, f"there is no job {number}")
    return job


def jobs(services: Services) -> APIRouter:
    """The calls. Handlers are plain functions: they run in threads."""
    calls = APIRouter(prefix="/api", tags=["jobs"])

    @calls.get("/jobs")
    def newest(wanted: Annotated[Page, Query()]) -> list[Job]:
        """The newest jobs; `before` an id for the next page."""
        found = services.queries.newest(wanted, wanted.limit, wanted.before)
        return [with_local_paths(services.settings, job) for job in found]

    @calls.get("/queue")
    def waiting(limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> list[Job]:
        """The jobs that wait, in the order in which they will be made."""
        return [with_local_paths(services.settings, job) for job in services.queries.waiting(limit)]

    @calls.get("/jobs/{job}")
    def one(number: Number) -> Job:
        """One job."""
        return with_local_paths(services.settings, find(services, number))

    @calls.get("/jobs/{job}/events")
    def events(number: Number) -> list[Event]:
        """What happened to a job."""
        return services.queries.events(find(services, number).id)

    @calls.post("/jobs/{job}/cancel")
    def cancel(number: Number) -> Job:
        """A waiting job at once, a running one at its next step."""
        return with_local_paths(
            services.settings, control.cancel(services, find(services, number).id)
        )

    @calls.post("/jobs/{job}/retry")
    def retry(number: Number) -> Job:
        """Put a failed or cancelled job into the queue, and its picture into the inbox."""
        return with_local_paths(
            services.settings, control.retry(services, find(services, number).id)
        )

    @calls.post("/retry")
    def retry_all(wanted: Ended) -> Retried:
        """Try all failed, or all cancelled, jobs again. One that cannot be stops no other."""
        return _retry_all(services, wanted.state)

    @calls.post("/jobs/{job}/priority")
    def priority(number: Number, wanted: Priority) -> Job:
        """A waiting job sooner or later."""
        job = control.prioritise(services, find(services, number).id, wanted.priority)
        return with_local_paths(services.settings, job)

    return calls


def _retry_all(services: Services, state: State) -> Retried:
    queued, refused, before = 0, [], None
    while found := services.queries.newest(JobFilter(state=state), _AT_ONCE, before):
        before = found[-1].id
        for job in found:
            if job.spec is None:
                continue
            try:
                control.retry(services, job.id)
                queued += 1
            except control.Refused as why:
                refused.append(f"job {job.id}: {why}")
    return Retried(queued=queued, refused=refused)
