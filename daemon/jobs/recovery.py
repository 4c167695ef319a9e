"""Recovery: requeue jobs whose daemon or host died.

    running -> queued | failed | cancelled
    publishing: the owner changes

Requeuing uses no try. A job that was running at too many crashes is a poison job and fails.
"""

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from daemon.jobs.database import Database
from daemon.jobs.schema import events, is_drained, jobs
from daemon.jobs.store import CANCELLED

MAX_INTERRUPTIONS = 3
"""Poison job: the number of daemon crashes during one job after which the job fails.

Fewer than the starts that systemd/i2vd.service allows, so that systemd does not give up first.
"""


class Recovery:
    """Transitions of orphaned jobs. Safe on several hosts at once.

    All methods raise QueueUnavailable.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._now = database.now
        self._record_event = database.record_event

    def recover(self, owner: str, running: Collection[int] = ()) -> list[int]:
        """Requeue the jobs that this owner was running when it died; return their ids.

        A job that was interrupted MAX_INTERRUPTIONS times fails. The caller must hold the owner's
        lock; `running` are the jobs that it still runs.
        """
        orphaned = sa.and_(
            jobs.c.state == "running", jobs.c.owner == owner, jobs.c.id.not_in(running)
        )
        return self._requeue(orphaned, "the daemon ended while it was running")

    def recover_departed(self, owner: str) -> list[int]:
        """Requeue running jobs of other owners whose lease has expired; return their ids."""
        orphaned = sa.and_(jobs.c.state == "running", self._has_expired(owner))
        return self._requeue(orphaned, "its host fell silent while it was running")

    def adopt_publications(self, owner: str, lease: float, among: Collection[str]) -> list[int]:
        """Take over the publications in these inboxes whose lease has expired; return their ids.

        The attempt stays the same, because publishing is safe to repeat, and safe on two hosts at
        once. A drained owner adopts none. `lease` is in seconds.
        """
        orphaned = sa.and_(
            jobs.c.state == "publishing",
            self._has_expired(owner),
            jobs.c.not_before <= self._now,
            jobs.c.inbox.in_(among),
            ~is_drained(owner),
        )
        with self._database.write() as db:
            found = self._lock_rows(db, orphaned)
            if found:
                db.execute(
                    jobs.update()
                    .where(jobs.c.id.in_(found))
                    .values(owner=owner, lease=self._now + lease)
                )
            for job in found:
                self._record_event(db, job, "adopted", f"its publication, by {owner}")
            return found

    def _has_expired(self, owner: str) -> sa.ColumnElement[bool]:
        """Select jobs of other owners whose lease has expired."""
        return sa.and_(
            sa.func.coalesce(jobs.c.lease, 0.0) < self._now,
            sa.func.coalesce(jobs.c.owner, "") != owner,
        )

    def _lock_rows(self, db: sa.Connection, clause: sa.ColumnElement[bool]) -> list[int]:
        """Lock the matching rows, except those that another host has locked; return their ids."""
        query = sa.select(jobs.c.id).where(clause).order_by(jobs.c.id)
        return [*db.scalars(query.with_for_update(skip_locked=True))]

    def _requeue(self, clause: sa.ColumnElement[bool], reason: str) -> list[int]:
        with self._database.read() as db:  # no write lock in the usual case of no orphans
            if not db.scalar(sa.select(sa.exists().where(clause))):
                return []
        with self._database.write() as db:
            rows = db.execute(
                jobs.update()
                .where(jobs.c.id.in_(self._lock_rows(db, clause)))
                .values(self._orphan_values())
                .returning(jobs.c.id, jobs.c.state)
            ).all()
            for job, state in rows:
                cancelled = state == "cancelled"
                self._record_event(db, job, "cancelled" if cancelled else "recovered", reason)
                if state == "queued" and self._count_interruptions(db, job) >= MAX_INTERRUPTIONS:
                    self._fail_poison_job(db, job)
            return [job for job, _ in rows]

    def _count_interruptions(self, db: sa.Connection, job: int) -> int:
        """Count the recoveries of a job since it was enqueued or retried by the operator."""
        last_queued = sa.select(sa.func.max(events.c.id)).where(
            events.c.job == job, events.c.event == "queued"
        )
        query = sa.select(sa.func.count()).where(
            events.c.job == job,
            events.c.event == "recovered",
            events.c.id > sa.func.coalesce(last_queued.scalar_subquery(), 0),
        )
        return db.scalar(query) or 0

    def _fail_poison_job(self, db: sa.Connection, job: int) -> None:
        error = f"the daemon ended {MAX_INTERRUPTIONS} times while it was running"
        values = {"state": "failed", "error": error, "finished": self._now}
        db.execute(jobs.update().where(jobs.c.id == job).values(values))
        self._record_event(db, job, "failed", error)

    def _orphan_values(self) -> dict[str, Any]:
        """Return the new column values of an orphaned job: queued, or cancelled if requested."""
        return {
            "state": sa.case((jobs.c.cancel, "cancelled"), else_="queued"),
            "error": sa.case((jobs.c.cancel, CANCELLED), else_=jobs.c.error),
            "finished": sa.case((jobs.c.cancel, self._now), else_=None),
            "owner": None,
            "lease": None,
            "progress": None,
        }
