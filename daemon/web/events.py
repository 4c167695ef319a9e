"""Job events over http: who listens hears of each change of a job's state, and misses none."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse

from daemon.jobs.database import LedgerUnavailable
from daemon.jobs.transitions import Changes
from daemon.services import Services
from daemon.web.sse import Streams, described, event

Mark = Annotated[int | None, Query(ge=0, le=2**63 - 1)]


class _Listener:
    """The changes after a number, all of them or one job's, as events."""

    def __init__(self, changes: Changes, after: int, job: int | None) -> None:
        self._changes = changes
        self._last = after
        self._job = job

    async def look(self) -> str:
        """What is new. Nothing is lost while the queue is away: it is told afterwards."""
        try:
            return await asyncio.to_thread(self._new)
        except LedgerUnavailable:
            return ""

    def _new(self) -> str:
        found = self._changes.after(self._last, self._job)
        if found:
            self._last = found[-1].number
        return "".join(
            event("job", change.model_dump_json(by_alias=True), change.number) for change in found
        )


def events(services: Services, streams: Streams) -> APIRouter:
    """The call."""
    calls = APIRouter(prefix="/api", tags=["jobs"])
    changes = Changes(services.database)

    @calls.get(
        "/events",
        response_class=StreamingResponse,
        responses=described("`job` for each change of a job's state, numbered."),
    )
    async def heard(
        after: Mark = None,
        job: Mark = None,
        last_event_id: Annotated[int | None, Header(ge=0, le=2**63 - 1)] = None,
    ) -> StreamingResponse:
        """Server-sent events: each change of a job's state from now on, or `after` a number.

        The header `Last-Event-ID`, which listeners send by themselves when they come back, goes
        before `after`.
        """
        number = after if last_event_id is None else last_event_id
        if number is None:
            number = await asyncio.to_thread(changes.newest)
        return streams.open(_Listener(changes, number, job).look)

    return calls
