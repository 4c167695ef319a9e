"""The daemon's status, once or as a stream; pause and resume."""

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Depends
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

from daemon.dispatch.slot import Slot
from daemon.fleet.identity import host_name
from daemon.jobs.database import QueueUnavailable
from daemon.jobs.job import State
from daemon.jobs.transitions import Changes
from daemon.status import Status
from daemon.web.sse import Streams


class SlotStatus(BaseModel):
    """A device and its job; `progress` as in a job.

    `preview_version` is incremented with each new preview: `/api/jobs/N/preview`.
    """

    device: str
    job: int | None
    path: str | None
    progress: dict[str, Any] | None
    preview_version: int
    pid: int | None


class RemoteJob(BaseModel):
    """A job that runs on another host; `progress` and `preview_version` as of a slot."""

    host: str
    job: int
    path: str
    progress: dict[str, Any] | None
    preview_version: int


class StatusResponse(BaseModel):
    """Current work of the daemon; `eta` is the seconds until the queue is empty."""

    paused: bool
    problems: list[str]
    jobs: dict[State, int]
    skipped: int
    """Number of files in the inboxes that belong to no job: `/api/skipped`."""
    changed: int
    """Number of the newest job event; a list of jobs is stale if it or a count has changed."""
    eta: float | None
    slots: list[SlotStatus]
    elsewhere: list[RemoteJob]


class UnavailableStatus(BaseModel):
    """Status while the queue cannot be read; `problems` gives the reason."""

    problems: list[str]


class _StatusCursor:
    """Changes of the status, for one stream."""

    def __init__(self, status: Status) -> None:
        self._status = status
        self._last: StatusResponse | UnavailableStatus | None = None

    def poll(self) -> list[ServerSentEvent]:
        """Return a `status` event if the status differs from the previous one."""
        new = self._read()
        if new == self._last:
            return []
        self._last = new
        return [ServerSentEvent(event="status", data=new)]

    def _read(self) -> StatusResponse | UnavailableStatus:
        try:
            return _read_status(self._status)
        except QueueUnavailable as error:
            return UnavailableStatus(problems=[str(error)])


def _read_status(status: Status) -> StatusResponse:
    services = status.services
    return StatusResponse(
        paused=services.operator.paused(),
        problems=status.problems(),
        jobs=services.queries.counts(),
        skipped=status.skipped,
        changed=Changes(services.database).newest(),
        eta=status.queue_eta(),
        slots=[_slot(slot) for slot in status.slots],
        elsewhere=[
            RemoteJob(
                host=host_name(job.owner or ""),
                job=job.id,
                path=job.path,
                progress=job.progress,
                preview_version=(job.progress or {}).get("preview_version", 0),
            )
            for job in services.queries.remote_jobs(services.owner)
        ],
    )


def _slot(slot: Slot) -> SlotStatus:
    current = slot.current
    return SlotStatus(
        device=slot.device,
        job=current.job.id if current else None,
        path=current.job.path if current else None,
        progress=current.progress_dict() if current else None,
        preview_version=current.preview_version if current else 0,
        pid=slot.generator.pid,
    )


def create_router(status: Status, streams: Streams) -> APIRouter:
    """Create the router of the status, pause and resume."""
    router = APIRouter(prefix="/api", tags=["status"])

    @router.get("/status")
    def get_status() -> StatusResponse:
        """Return the current status."""
        return _read_status(status)

    @router.get(
        "/live",
        response_class=EventSourceResponse,
        response_description="`status` as it changes.",
        dependencies=[Depends(streams.admit)],
    )
    async def stream_status() -> AsyncIterator[StatusResponse | UnavailableStatus]:
        """Stream the status as server-sent events, one for each change."""
        async for event in streams.follow(_StatusCursor(status).poll):
            yield event

    @router.post("/pause")
    def pause() -> StatusResponse:
        """Pause: claim no more jobs; running jobs continue."""
        status.services.operator.pause(True)
        return _read_status(status)

    @router.post("/resume")
    def resume() -> StatusResponse:
        """Resume claiming jobs."""
        status.services.operator.pause(False)
        return _read_status(status)

    return router
