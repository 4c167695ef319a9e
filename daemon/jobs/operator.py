"""Operator: cancel, retry and reprioritise jobs; pause and resume claiming.

Only the queue changes. The host that runs or publishes a job reads the request there and acts.
"""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from daemon.jobs.database import Database
from daemon.jobs.job import Job, as_job
from daemon.jobs.schema import jobs, meta, same_drop
from daemon.jobs.store import CANCELLED


class Operator:
    """Changes on behalf of a person. All methods raise QueueUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._now = database.now
        self._record_event = database.record_event

    def cancel(self, job_id: int) -> bool:
        """Cancel a queued job now, a running one at its next step, a publication at its next try.

        False for any other state.
        """
        is_queued = jobs.c.state == "queued"
        is_publishing = jobs.c.state == "publishing"
        with self._database.write() as db:
            state = db.execute(
                jobs.update()
                .where(jobs.c.id == job_id, jobs.c.state.in_(["queued", "running", "publishing"]))
                .values(
                    cancel=True,
                    error=sa.case((is_queued, CANCELLED), else_=jobs.c.error),
                    finished=sa.case((is_queued, self._now), else_=None),
                    not_before=sa.case((is_publishing, 0), else_=jobs.c.not_before),
                    state=sa.case((is_queued, "cancelled"), else_=jobs.c.state),
                )
                .returning(jobs.c.state)
            ).scalar()
            if state is not None:
                ended = state == "cancelled"
                self._record_event(db, job_id, "cancelled" if ended else "cancel_requested")
            return state is not None

    def hasten(self, job_id: int) -> bool:
        """Make a job due that waits for a reason, or after a failure; False for any other job."""
        waits = jobs.c.state.in_(["queued", "publishing"]) & jobs.c.error.is_not(None)
        with self._database.write() as db:
            changed = db.execute(
                jobs.update()
                .where(jobs.c.id == job_id, waits, ~jobs.c.cancel)
                .values(not_before=0, waits=sa.case((jobs.c.waits > 0, 1), else_=0))
            )
            if changed.rowcount:
                self._record_event(db, job_id, "retry_requested")
            return changed.rowcount == 1

    def retry(self, job_id: int, restore: Callable[[Job], str | None]) -> bool:
        """Requeue a failed or cancelled job, with all its tries restored.

        `restore` moves the picture back into the inbox and returns its fingerprint there, or None
        if there is no picture. It runs within the transaction, so that no other host sees half of
        the change. False if there is no such job or no picture.
        """
        with self._database.write() as db:
            row = db.execute(
                sa.select(jobs).where(
                    jobs.c.id == job_id,
                    jobs.c.state.in_(["failed", "cancelled"]),
                    jobs.c.spec.is_not(None),
                )
            ).first()
            fingerprint = restore(as_job(row)) if row else None
            if row is None or fingerprint is None:
                return False
            drop = {
                "picture_location": "inbox",
                "picture_path": None,
                "archival_error": None,
                "fingerprint": fingerprint,
            }
            db.execute(jobs.update().where(same_drop(row)).values(drop))
            values: dict[str, Any] = {
                "state": "queued", "error": None, "finished": None, "failures": 0, "waits": 0,
                "rung": 0, "fallbacks": [], "cancel": False, "not_before": 0, "result": None,
            }  # fmt: skip
            db.execute(jobs.update().where(jobs.c.id == job_id).values(values))
            self._record_event(db, job_id, "queued", "retried by the operator")
            return True

    def drop_again(self, job_id: int, restore: Callable[[Job], str | None]) -> bool:
        """Put the picture of a job without a spec back into the inbox, as a new drop.

        `restore` as in `retry`. False if there is no such job or no picture.
        """
        with self._database.write() as db:
            row = db.execute(
                sa.select(jobs).where(
                    jobs.c.id == job_id,
                    jobs.c.state == "failed",
                    jobs.c.spec.is_(None),
                    jobs.c.picture_location.in_(["failed", "inbox"]),
                )
            ).first()
            if row is None or restore(as_job(row)) is None:
                return False
            left = {"picture_location": "gone", "picture_path": None, "archival_error": None}
            db.execute(jobs.update().where(same_drop(row)).values(left))
            self._record_event(db, job_id, "dropped_again")
            return True

    def prioritise(self, job_id: int, priority: int) -> bool:
        """Set the priority of a queued job. False for any other state."""
        queued = (jobs.c.id == job_id) & (jobs.c.state == "queued")
        with self._database.write() as db:
            changed = db.execute(jobs.update().where(queued).values(priority=priority))
            if changed.rowcount:
                self._record_event(db, job_id, "priority_changed", str(priority))
            return changed.rowcount == 1

    def pause(self, paused: bool) -> None:
        """Pause or resume claiming on all hosts; running attempts continue. Survives restarts."""
        with self._database.write() as db:
            db.execute(meta.delete().where(meta.c.key == "paused"))
            if paused:
                db.execute(meta.insert().values(key="paused", value="yes"))

    def paused(self) -> bool:
        """Return True if claiming is paused."""
        with self._database.read() as db:
            return db.scalar(sa.select(meta.c.value).where(meta.c.key == "paused")) is not None
