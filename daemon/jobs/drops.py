"""Statements about the drops of one path: the last one, and what a new one does to it."""

from typing import Any

import sqlalchemy as sa

from daemon.jobs.database import Database
from daemon.jobs.job import IN_INBOX, OPEN, Drop
from daemon.jobs.schema import is_typed, jobs, same_drop


def last_drop(db: sa.Connection, inbox: str, path: str) -> Any:
    """Return the first row of the last drop at a path; None if there was none.

    A row whose drop is not a number is none.
    """
    return db.execute(
        sa.select(jobs)
        .where(jobs.c.inbox == inbox, jobs.c.path == path, is_typed(jobs.c.drop))
        .order_by(jobs.c.drop.desc(), jobs.c.variant)
        .limit(1)
    ).first()


def recognise(db: sa.Connection, last: Any, drop: Drop) -> bool:
    """Return True if `drop` is the last drop of its path, which is still in the inbox.

    A copy, a restore or `touch` changes the mtime, but not the content: then the new fingerprint is
    stored. A picture without a clip that is dropped again is a new drop, because it is tried again.
    """
    if last is None or last.picture_location not in IN_INBOX:
        return False
    if last.fingerprint == drop.fingerprint:
        return True
    if not drop.sha256 or last.sha256 != drop.sha256:
        return False
    clips = same_drop(last) & jobs.c.state.in_([*OPEN, "done"])
    if not db.scalar(sa.select(sa.exists().where(clips))):
        return False
    db.execute(jobs.update().where(same_drop(last)).values(fingerprint=drop.fingerprint))
    return True


def departure_of(last: Any) -> tuple[int, str] | None:
    """Return what tells the departure of a drop from others; None if it is still in the inbox.

    A move is stored after it was made: a file that is there after that was dropped again.
    """
    if last is None or last.picture_location in IN_INBOX:
        return None
    return last.id, last.picture_location


def replace(database: Database, db: sa.Connection, last: Any) -> None:
    """Cancel the queued jobs of a drop whose picture was overwritten."""
    db.execute(jobs.update().where(same_drop(last)).values(picture_location="gone"))
    queued = same_drop(last) & (jobs.c.state == "queued")
    cancelled = db.execute(
        jobs.update()
        .where(queued)
        .values(state="cancelled", error="replaced by a newer picture", finished=database.now)
        .returning(jobs.c.id)
    )
    for job in cancelled.scalars().all():
        database.record_event(db, job, "cancelled", "replaced by a newer picture")
