"""Job events over http: who listens hears of each change of a job's state, and misses none."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent

from daemon.jobs.database import QueueUnavailable
from daemon.jobs.transitions import Change, Changes
from daemon.services import Services
from daemon.web.sse import Streams

Mark = Annotated[int | None, Query(ge=0, le=2**63 - 1)]
LastEvent = Annotated[int | None, Header(ge=0, le=2**63 - 1)]


class _Listener:
    """The changes after a number, all of them or one job's, as events."""

    def __init__(self, changes: Changes, after: int, job: int | None) -> None:
        self._changes = changes
        self._last = after
        self._job = job

    def look(self) -> list[ServerSentEvent]:
        """Return what is new. While the queue is away nothing is lost: it is sent afterwards."""
        try:
            found = self._changes.after(self._last, self._job)
        except QueueUnavailable:
            return []
        if found:
            self._last = found[-1].number
        return [
            ServerSentEvent(event="job", id=str(change.number), data=change) for change in found
        ]


def events(services: Services, streams: Streams) -> APIRouter:
    """The call."""
    calls = APIRouter(prefix="/api", tags=["jobs"])
    changes = Changes(services.database)

    def first(after: Mark = None, last_event_id: LastEvent = None) -> int:
        """Return the number to begin after. Raises QueueUnavailable."""
        number = after if last_event_id is None else last_event_id
        return changes.newest() if number is None else number

    @calls.get(
        "/events",
        response_class=EventSourceResponse,
        response_description="`job` for each change of a job's state, numbered.",
        dependencies=[Depends(streams.place)],
    )
    async def heard(
        number: Annotated[int, Depends(first)], job: Mark = None
    ) -> AsyncIterator[Change]:
        """Server-sent events: each change of a job's state from now on, or `after` a number.

        The header `Last-Event-ID`, which listeners send by themselves when they come back, goes
        before `after`.
        """
        async for event in streams.follow(_Listener(changes, number, job).look):
            yield event

    return calls
