"""Pruning: remove finished jobs and their events from the queue, a few at a time.

    done | failed | cancelled -> (none)

The row of a picture that stays in an inbox is all that is known of it: without that row it would be
generated again. retention.py knows the folders, and decides.
"""

from collections.abc import Collection
from typing import NamedTuple

import sqlalchemy as sa

from daemon.jobs.database import Database
from daemon.jobs.job import FINISHED, Location
from daemon.jobs.schema import events, is_typed, jobs, pruned

_BATCH_ROWS = 500

_REMOVABLE = (
    jobs.c.state.in_(FINISHED) & (jobs.c.picture_location != "inbox") & jobs.c.finished.is_not(None)
)


class FinishedJob(NamedTuple):
    """A job that may be removed."""

    id: int
    inbox: str
    path: str
    picture_location: Location
    finished: float
    """Seconds since 1970."""


class Batch(NamedTuple):
    """Finished jobs in the order of their numbers."""

    jobs: list[FinishedJob]
    last: int
    """Number of the last row that was looked at."""
    created: float
    """When the last of `jobs` was created, in seconds since 1970; later ones are younger."""


class Pruning:
    """Statements that remove jobs; safe on several hosts. All methods raise QueueUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def now(self) -> float:
        """Return the database's time, in seconds since 1970."""
        with self._database.read() as db:
            return float(db.execute(sa.select(self._database.now)).scalar_one())

    def finished(self) -> int:
        """Count the finished jobs."""
        query = sa.select(sa.func.count()).where(jobs.c.state.in_(FINISHED))
        with self._database.read() as db:
            return db.scalar(query) or 0

    def batch(self, after: int) -> Batch | None:
        """Return the finished jobs among the next rows after a number; None after the last row."""
        columns = [jobs.c[name] for name in FinishedJob._fields]
        times = is_typed(jobs.c.created) & is_typed(jobs.c.finished)
        removable = (_REMOVABLE & times).label("removable")
        query = sa.select(*columns, jobs.c.created, removable).where(jobs.c.id > after)
        with self._database.read() as db:
            rows = db.execute(query.order_by(jobs.c.id).limit(_BATCH_ROWS)).all()
        if not rows:
            return None
        found = [FinishedJob(*row[:-2]) for row in rows if row.removable]
        created = max((row.created for row in rows if row.removable), default=0.0)
        return Batch(found, rows[-1].id, created)

    def remove(self, among: Collection[int], delivered: int | None = None) -> int:
        """Remove those of these jobs that are still finished; return how many.

        Those with events after the number `delivered` stay.
        """
        removable = jobs.c.id.in_(among) & _REMOVABLE
        if delivered is not None:
            removable &= ~sa.exists().where(events.c.job == jobs.c.id, events.c.id > delivered)
        query = sa.select(jobs.c.id, jobs.c.state, jobs.c.rule, jobs.c.preset).where(removable)
        with self._database.write() as db:
            rows = db.execute(query.with_for_update(skip_locked=True)).all()
            ids = [row.id for row in rows]
            db.execute(events.delete().where(events.c.job.in_(ids)))
            db.execute(jobs.delete().where(jobs.c.id.in_(ids)))
            for row in rows:
                self._count(db, row.state, _label(row.rule), _label(row.preset))
        return len(ids)

    def _count(self, db: sa.Connection, state: str, rule: str, preset: str) -> None:
        same = (pruned.c.state == state) & (pruned.c.rule == rule) & (pruned.c.preset == preset)
        if not db.execute(pruned.update().where(same).values(count=pruned.c.count + 1)).rowcount:
            db.execute(pruned.insert().values(state=state, rule=rule, preset=preset, count=1))


def _label(value: object) -> str:
    return value if isinstance(value, str) else ""
