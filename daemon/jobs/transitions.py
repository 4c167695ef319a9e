"""Changes: each job's way from state to state, in the order of the ledger's events."""

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field

from daemon.jobs.database import Database
from daemon.jobs.job import State
from daemon.jobs.schema import events, jobs

ENQUEUED: dict[str, State] = {
    "queued": "queued",
    "rejected": "failed",
    "running": "running",
    "given back": "queued",
    "will be tried again": "queued",
    "recovered": "queued",
    "publishing": "publishing",
    "done": "done",
    "failed": "failed",
    "cancelled": "cancelled",
}
"""The state that a job is in after an event; others leave it where it is."""

_MOST = 200


class Change(BaseModel):
    """A job has left one state for another; `at` is in seconds since 1970.

    `detail` is the clip's path in the outbox where it is done, and the reason where it failed.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    number: int
    job: int
    inbox: str
    path: str
    came_from: State | None = Field(serialization_alias="from")
    """None: it is new."""
    went_to: State = Field(serialization_alias="to")
    event: str
    detail: str
    at: float


class Changes:
    """What happened to all jobs, or to one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def newest(self) -> int:
        """The number of the newest event; 0 when there is none."""
        with self._database.read() as db:
            return db.scalar(sa.select(sa.func.max(events.c.id))) or 0

    def after(self, number: int, job: int | None = None) -> list[Change]:
        """The next changes after that number, oldest first; not all of them when there are many."""
        earlier = events.alias()
        before = (
            sa.select(earlier.c.event)
            .where(earlier.c.job == events.c.job, earlier.c.id < events.c.id)
            .where(earlier.c.event.in_(ENQUEUED))
            .order_by(earlier.c.id.desc())
            .limit(1)
            .scalar_subquery()
        )
        query = (
            sa.select(events, jobs.c.inbox, jobs.c.path, before.label("before"))
            .join(jobs, jobs.c.id == events.c.job)
            .where(events.c.id > number, events.c.event.in_(ENQUEUED))
            .where(self._database.is_settled(events))
            .order_by(events.c.id)
            .limit(_MOST)
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
                came_from=ENQUEUED[row.before] if row.before else None,
                went_to=ENQUEUED[row.event],
                event=row.event,
                detail=row.detail,
                at=row.at,
            )
            for row in rows
        ]
