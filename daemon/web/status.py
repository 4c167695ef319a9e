"""The daemon's state over http: now, and live as it changes; pause and go on."""

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
    """What the daemon is doing; `eta` are seconds until nothing waits any more."""

    paused: bool
    problems: list[str]
    jobs: dict[State, int]
    changed: int
    """The last event of any job; with the counts it tells that a list has changed."""
    eta: float | None
    slots: list[SlotStatus]
    elsewhere: list[RemoteJob]


class Unreadable(BaseModel):
    """The queue cannot be read; `problems` says why, and the rest is not known."""

    problems: list[str]


class _Live:
    """The status as events, for one listener."""

    def __init__(self, status: Status) -> None:
        self._status = status
        self._last: StatusResponse | Unreadable | None = None

    def look(self) -> list[ServerSentEvent]:
        """Return a `status` if it differs from the one before."""
        new = self._now()
        if new == self._last:
            return []
        self._last = new
        return [ServerSentEvent(event="status", data=new)]

    def _now(self) -> StatusResponse | Unreadable:
        try:
            return _now(self._status)
        except QueueUnavailable as error:
            return Unreadable(problems=[str(error)])


def _now(status: Status) -> StatusResponse:
    services = status.services
    return StatusResponse(
        paused=services.store.paused(),
        problems=status.problems(),
        jobs=services.queries.counts(),
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
    front = slot.current
    return SlotStatus(
        device=slot.device,
        job=front.job.id if front else None,
        path=front.job.path if front else None,
        progress=front.progress_dict() if front else None,
        preview_version=front.preview_version if front else 0,
        pid=slot.generator.pid,
    )


def status(state: Status, streams: Streams) -> APIRouter:
    """The calls."""
    calls = APIRouter(prefix="/api", tags=["status"])

    @calls.get("/status")
    def what() -> StatusResponse:
        """What the daemon is doing."""
        return _now(state)

    @calls.get(
        "/live",
        response_class=EventSourceResponse,
        response_description="`status` as it changes.",
        dependencies=[Depends(streams.place)],
    )
    async def live() -> AsyncIterator[StatusResponse | Unreadable]:
        """The same as server-sent events, whenever it changes."""
        async for event in streams.follow(_Live(state).look):
            yield event

    @calls.post("/pause")
    def pause() -> StatusResponse:
        """Claim nothing more; what runs goes on."""
        state.services.store.pause(True)
        return _now(state)

    @calls.post("/resume")
    def resume() -> StatusResponse:
        """Claim again."""
        state.services.store.pause(False)
        return _now(state)

    return calls
