"""Server-sent events of jobs: each change of a job's state, without gaps."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent

from daemon.jobs.database import QueueUnavailable
from daemon.jobs.transitions import Change, Changes
from daemon.services import Services
from daemon.web.sse import Streams

QueryNumber = Annotated[int | None, Query(ge=0, le=2**63 - 1)]
LastEventId = Annotated[int | None, Header(ge=0, le=2**63 - 1)]


class _ChangeCursor:
    """Cursor over the changes after a number, of all jobs or of one."""

    def __init__(self, changes: Changes, after: int, job: int | None) -> None:
        self._changes = changes
        self._last = after
        self._job = job

    def poll(self) -> list[ServerSentEvent]:
        """Return new changes as events; while the queue is unavailable they wait."""
        try:
            found = self._changes.after(self._last, self._job)
        except QueueUnavailable:
            return []
        if found:
            self._last = found[-1].number
        return [
            ServerSentEvent(event="job", id=str(change.number), data=change) for change in found
        ]


def create_router(services: Services, streams: Streams) -> APIRouter:
    """Create the router of the job events."""
    router = APIRouter(prefix="/api", tags=["jobs"])
    changes = Changes(services.database)

    def start_number(after: QueryNumber = None, last_event_id: LastEventId = None) -> int:
        """Return the number after which the stream begins. Raises QueueUnavailable."""
        number = after if last_event_id is None else last_event_id
        return changes.newest() if number is None else number

    @router.get(
        "/events",
        response_class=EventSourceResponse,
        response_description="`job` for each change of a job's state, numbered.",
        dependencies=[Depends(streams.admit)],
    )
    async def stream_job_events(
        start: Annotated[int, Depends(start_number)], job: QueryNumber = None
    ) -> AsyncIterator[Change]:
        """Stream each change of a job's state as a server-sent event, from now or `after` a number.

        The header `Last-Event-ID`, which clients send when they reconnect, takes precedence over
        `after`.
        """
        async for event in streams.follow(_ChangeCursor(changes, start, job).poll):
            yield event

    return router
