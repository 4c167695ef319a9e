"""Takeover: what was running when a daemon ended, or a host fell silent, goes back into the queue.

running -> queued | failed | cancelled, and the owner of a publication changes
"""

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from daemon.jobs.database import Database
from daemon.jobs.schema import events, is_drained, jobs
from daemon.jobs.store import CANCELLED

MAX_INTERRUPTIONS = 10
"""Ends of the daemon in the middle of a job, after which the job is taken for their cause."""


class Recovery:
    """The transitions of jobs that nobody is at any more. Safe on several hosts at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._now = database.now
        self._note = database.note

    def recover(self, owner: str, in_hand: Collection[int] = ()) -> list[int]:
        """Put back what this owner was running when it died: `running -> queued`, uncounted.

        But a job that was cut short MOST_CUTS times is taken for the cause: `running -> failed`.
        Only for an owner that is known to be alone; `in_hand` are jobs that it is still at.
        """
        ours = sa.and_(jobs.c.state == "running", jobs.c.owner == owner, jobs.c.id.not_in(in_hand))
        return self._requeue(ours, "the daemon ended while it was running")

    def recover_departed(self, owner: str) -> list[int]:
        """The same with what others were running whose lease ran out."""
        late = sa.and_(jobs.c.state == "running", self._is_late(owner))
        return self._requeue(late, "its host fell silent while it was running")

    def adopt_publications(self, owner: str, lease: float, among: Collection[str]) -> list[int]:
        """Become the owner of publications in these inboxes whose owner let the lease run out.

        Their attempt goes on, for publishing is safe to repeat, and for two at once. None for an
        owner that is drained.
        """
        late = sa.and_(
            jobs.c.state == "publishing",
            self._is_late(owner),
            jobs.c.inbox.in_(among),
            ~is_drained(owner),
        )
        with self._database.write() as db:
            found = self._free(db, late)
            if found:
                db.execute(
                    jobs.update()
                    .where(jobs.c.id.in_(found))
                    .values(owner=owner, lease=self._now + lease)
                )
            for job in found:
                self._note(db, job, "taken over", f"its publication, by {owner}")
            return found

    def _is_late(self, owner: str) -> sa.ColumnElement[bool]:
        return sa.and_(
            sa.func.coalesce(jobs.c.lease, 0.0) < self._now,
            sa.func.coalesce(jobs.c.owner, "") != owner,
        )

    def _free(self, db: sa.Connection, clause: sa.ColumnElement[bool]) -> list[int]:
        """Those rows that no other host is changing at this moment, locked."""
        query = sa.select(jobs.c.id).where(clause).order_by(jobs.c.id)
        return [*db.scalars(query.with_for_update(skip_locked=True))]

    def _requeue(self, clause: sa.ColumnElement[bool], why: str) -> list[int]:
        with self._database.read() as db:  # as nearly always there is nothing
            if not db.scalar(sa.select(sa.exists().where(clause))):
                return []
        with self._database.write() as db:
            rows = db.execute(
                jobs.update()
                .where(jobs.c.id.in_(self._free(db, clause)))
                .values(self._abandoned())
                .returning(jobs.c.id, jobs.c.state)
            ).all()
            for job, state in rows:
                event = "cancelled" if state == "cancelled" else "recovered"
                self._note(db, job, event, why)
                if state == "queued" and self._interruptions(db, job) >= MAX_INTERRUPTIONS:
                    self._fail_poison_job(db, job)
            return [job for job, _ in rows]

    def _interruptions(self, db: sa.Connection, job: int) -> int:
        """How often the job was recovered since it was last queued by a person or the intake."""
        asked = sa.select(sa.func.max(events.c.id)).where(
            events.c.job == job, events.c.event == "queued"
        )
        query = sa.select(sa.func.count()).where(
            events.c.job == job,
            events.c.event == "recovered",
            events.c.id > sa.func.coalesce(asked.scalar_subquery(), 0),
        )
        return db.scalar(query) or 0

    def _fail_poison_job(self, db: sa.Connection, job: int) -> None:
        error = f"the daemon ended {MAX_INTERRUPTIONS} times while it was running"
        over = {"state": "failed", "error": error, "finished": self._now}
        db.execute(jobs.update().where(jobs.c.id == job).values(over))
        self._note(db, job, "failed", error)

    def _abandoned(self) -> dict[str, Any]:
        """What becomes of a running row whose attempt is lost; uncounted, and a cancel holds."""
        return {
            "state": sa.case((jobs.c.cancel, "cancelled"), else_="queued"),
            "error": sa.case((jobs.c.cancel, CANCELLED), else_=jobs.c.error),
            "finished": sa.case((jobs.c.cancel, self._now), else_=None),
            "owner": None,
            "lease": None,
            "progress": None,
        }
