"""Claim filter: skip jobs that only a larger device can run.

The store keeps the required memory of each job (`MemoryEstimator.minimum`). A device knows its own
limit (`MemoryEstimator.limit`). If no live device can run a job as requested, any device may claim
it: the ladder makes it smaller.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from daemon.jobs.schema import jobs


@dataclass(frozen=True)
class ClaimFilter:
    """The memory limit of one device, and the largest limit of all devices.

    `largest_elsewhere` has, for each inbox that this host sees, the largest memory limit in bytes
    of the live devices that accept its jobs. 0 if there are none.
    """

    memory_limit: int
    """In bytes."""
    largest_elsewhere: Mapping[str, int]

    def is_largest(self) -> bool:
        """Return True if no other device can run more, so that no job is skipped."""
        return all(limit <= self.memory_limit for limit in self.largest_elsewhere.values())

    def clause(self, required_memory: int) -> sa.ColumnElement[bool] | None:
        """Select the jobs with this required memory that the device may claim; None if there
        are none in any inbox."""
        skipped_inboxes = [
            inbox
            for inbox, limit in self.largest_elsewhere.items()
            if self.memory_limit < required_memory <= limit
        ]
        if len(skipped_inboxes) == len(self.largest_elsewhere):
            return None
        return (jobs.c.required_memory == required_memory) & jobs.c.inbox.not_in(skipped_inboxes)


def pick(
    db: sa.Connection, due: sa.ColumnElement[bool], claim_filter: ClaimFilter | None
) -> sa.Select[tuple[int]] | None:
    """Return a query for the id of the next job that a device may claim; None if there is none.

    A device that skips jobs must not read a hundred thousand of them at each claim. The required
    memory has few distinct values, and an index finds the first job of each.
    """
    if claim_filter is None or claim_filter.is_largest():
        return _first(due, jobs.c.id)
    clauses = {memory: claim_filter.clause(memory) for memory in _distinct_requirements(db)} | {
        None: jobs.c.required_memory.is_(None)
    }
    claimable = {memory: due & clause for memory, clause in clauses.items() if clause is not None}
    columns = (jobs.c.priority, jobs.c.id, jobs.c.required_memory)
    firsts = [_first(clause, *columns).subquery() for clause in claimable.values()]
    all_firsts = sa.union_all(*(sa.select(first) for first in firsts))
    first = db.execute(all_firsts.order_by(sa.desc("priority"), sa.asc("id")).limit(1)).first()
    if first is None:
        return None
    return _first(claimable[first.required_memory], jobs.c.id)


def _first(clause: sa.ColumnElement[bool], *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    queued = sa.select(*columns).where(jobs.c.state == "queued", clause)
    return queued.order_by(jobs.c.priority.desc(), jobs.c.id).limit(1)


def _distinct_requirements(db: sa.Connection) -> Sequence[int]:
    """Read the distinct values of the required memory of queued jobs: a loose index scan."""
    start = sa.select(sa.literal(-1, sa.BigInteger).label("memory")).cte(recursive=True)
    column = jobs.c.required_memory
    above = sa.select(column).where(jobs.c.state == "queued", column > start.c.memory)
    following = above.order_by(column).limit(1).scalar_subquery()
    distinct = start.union_all(sa.select(following).where(start.c.memory.is_not(None)))
    return db.scalars(sa.select(distinct.c.memory).where(distinct.c.memory >= 0)).all()
