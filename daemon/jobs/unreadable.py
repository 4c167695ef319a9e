"""Unreadable rows: fail, by its number, each open job whose row has not the form of a job.

    queued | running | publishing | (anything unknown) -> failed

Damage, another program or an operator with SQL may have written it. It costs no other job.
"""

from typing import Any

import sqlalchemy as sa
import structlog

from daemon.jobs.database import Database
from daemon.jobs.job import Job, UnreadableRow, as_job
from daemon.jobs.schema import jobs

_EMPTY: dict[str, Any] = {
    "spec": None,
    "progress": None,
    "result": None,
    "preset": None,
    "required_memory": None,
    "rule": None,
    "rules_digest": None,
    "owner": None,
    "sha256": "",
    "fingerprint": "",
    "path_nfc": "",
    "overrides": [],
    "picture_path": None,
    "archival_error": None,
    "picture_location": "gone",
    "source": {},
    "fallbacks": [],
    "attempt": 0,
    "failures": 0,
    "waits": 0,
    "rung": 0,
    "priority": 0,
    "not_before": 0.0,
    "started": None,
    "cancel": False,
}
"""Values in place of those that cannot be read, so that the rest of the job can be shown."""

log = structlog.get_logger()


def fail_unreadable(database: Database, owner: str) -> list[int]:
    """Fail the unreadable jobs that are queued or this owner's; return their ids.

    Raises QueueUnavailable.
    """
    open_jobs = sa.select(jobs).where(jobs.c.state.not_in(["done", "failed", "cancelled"]))
    if database.shared:
        running = jobs.c.state.in_(["running", "publishing"])
        open_jobs = open_jobs.where(~running | (sa.func.coalesce(jobs.c.owner, owner) == owner))
    with database.write() as db:
        rows = db.execute(open_jobs.order_by(jobs.c.id)).all()
        return [row.id for row in rows if fail_if_unreadable(database, db, row)]


def fail_if_unreadable(database: Database, db: sa.Connection, row: Any) -> bool:
    """Fail a job within the caller's transaction if its row cannot be read."""
    try:
        _check_complete(as_job(row))
    except UnreadableRow as error:
        log.error("job failed", job=row.id, reason=str(error))
        emptied = {column: _EMPTY[column] for column in error.columns & _EMPTY.keys()}
        values = {"state": "failed", "error": str(error), "finished": database.now, "lease": None}
        db.execute(jobs.update().where(jobs.c.id == row.id).values(emptied | values))
        database.record_event(db, row.id, "failed", str(error))
        return True
    return False


def _check_complete(job: Job) -> None:
    """Raise UnreadableRow if an open job lacks what its state needs."""
    if job.spec is None:
        raise UnreadableRow(job.id, frozenset(), "spec: is empty")
    if job.state == "publishing" and not job.result:
        raise UnreadableRow(job.id, frozenset(), "result: is empty")
