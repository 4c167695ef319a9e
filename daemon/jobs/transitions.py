"""State changes of jobs, in the order of the events table; for the API and webhooks."""

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field

from daemon.jobs.database import Database
from daemon.jobs.job import EventName, EventText, EventTime, State
from daemon.jobs.schema import events, is_typed, jobs

STATE_AFTER: dict[EventName, State] = {
    "queued": "queued",
    "rejected": "failed",
    "running": "running",
    "released": "queued",
    "retry_scheduled": "queued",
    "recovered": "queued",
    "publishing": "publishing",
    "done": "done",
    "failed": "failed",
    "cancelled": "cancelled",
}
"""The state of a job after an event; other events do not change it."""

_PAGE_SIZE = 200


class Change(BaseModel):
    """A state change of a job.

    `detail` is the clip's path in the outbox if the job is done, and the reason if it failed.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    number: int
    job: int
    inbox: str
    path: str
    from_state: State | None = Field(serialization_alias="from")
    """None for a new job."""
    to_state: State = Field(serialization_alias="to")
    event: str
    detail: EventText
    at: EventTime


class Changes:
    """State changes of all jobs, or of one. Methods raise QueueUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def newest(self) -> int:
        """Return the number of the newest event; 0 if there is none."""
        with self._database.read() as db:
            return db.scalar(sa.select(sa.func.max(events.c.id))) or 0

    def after(self, number: int, job: int | None = None) -> list[Change]:
        """Return the next changes after an event number, oldest first; a page at most."""
        earlier = events.alias()
        before = (
            sa.select(earlier.c.event)
            .where(earlier.c.job == events.c.job, earlier.c.id < events.c.id)
            .where(earlier.c.event.in_(STATE_AFTER))
            .order_by(earlier.c.id.desc())
            .limit(1)
            .scalar_subquery()
        )
        query = (
            sa.select(events, jobs.c.inbox, jobs.c.path, before.label("before"))
            .join(jobs, jobs.c.id == events.c.job)
            .where(events.c.id > number, events.c.event.in_(STATE_AFTER))
            .where(is_typed(jobs.c.inbox), is_typed(jobs.c.path))
            .where(self._database.is_settled(events))
            .order_by(events.c.id)
            .limit(_PAGE_SIZE)
        )
        if job is not None:
            query = query.where(events.c.job == job)
        with self._database.read() as db:
            rows = db.execute(query).all()
        return [
            Change(
                number=row.id,
                job=row.job,
                inbox=row.inbox,
                path=row.path,
                from_state=STATE_AFTER[row.before] if row.before else None,
                to_state=STATE_AFTER[row.event],
                event=row.event,
                detail=row.detail,
                at=row.at,
            )
            for row in rows
        ]
