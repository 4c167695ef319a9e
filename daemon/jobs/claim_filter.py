"""Claim filter: skip jobs that only a larger device can run.

The store keeps what each job needs (`MemoryEstimator.minimum`); a device knows its own limit
(`MemoryEstimator.limit`). If no living device can run a job, any may take it: the ladder makes it
smaller.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from daemon.jobs.schema import jobs


@dataclass(frozen=True)
class ClaimFilter:
    """Of one device. `elsewhere`: by each inbox that it sees, the most that any device can reach
    that lives and takes its jobs."""

    memory_limit: int
    largest_elsewhere: Mapping[str, int]

    def is_largest(self) -> bool:
        """Whether it leaves nothing to others."""
        return all(most <= self.memory_limit for most in self.largest_elsewhere.values())

    def clause(self, required_memory: int) -> sa.ColumnElement[bool] | None:
        """The jobs that need so much and that it may take; None where it leaves all to others."""
        others = [
            inbox
            for inbox, most in self.largest_elsewhere.items()
            if self.memory_limit < required_memory <= most
        ]
        if len(others) == len(self.largest_elsewhere):
            return None
        return (jobs.c.need == required_memory) & jobs.c.inbox.not_in(others)


def pick(
    db: sa.Connection, due: sa.ColumnElement[bool], claim_filter: ClaimFilter | None
) -> sa.Select[tuple[int]] | None:
    """A query for the number of the job that a device takes next; None where there is none for it.

    A device that leaves jobs to others must not look at a hundred thousand of them each time. What
    jobs need has few values, and of each an index knows the first job.
    """
    if claim_filter is None or claim_filter.is_largest():
        return _first(due, jobs.c.id)
    clauses = {need: claim_filter.clause(need) for need in _needs(db)} | {
        None: jobs.c.need.is_(None)
    }
    mine = {need: due & clause for need, clause in clauses.items() if clause is not None}
    columns = (jobs.c.priority, jobs.c.id, jobs.c.need)
    firsts = [_first(clause, *columns).subquery() for clause in mine.values()]
    all_firsts = sa.union_all(*(sa.select(first) for first in firsts))
    first = db.execute(all_firsts.order_by(sa.desc("priority"), sa.asc("id")).limit(1)).first()
    if first is None:
        return None
    return _first(mine[first.need], jobs.c.id)


def _first(clause: sa.ColumnElement[bool], *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    queued = sa.select(*columns).where(jobs.c.state == "queued", clause)
    return queued.order_by(jobs.c.priority.desc(), jobs.c.id).limit(1)


def _needs(db: sa.Connection) -> Sequence[int]:
    """What waiting jobs need, each value once."""
    needs = sa.select(sa.literal(-1, sa.BigInteger).label("need")).cte(recursive=True)
    above = sa.select(jobs.c.need).where(jobs.c.state == "queued", jobs.c.need > needs.c.need)
    more = above.order_by(jobs.c.need).limit(1).scalar_subquery()
    found = needs.union_all(sa.select(more).where(needs.c.need.is_not(None)))
    return db.scalars(sa.select(found.c.need).where(found.c.need >= 0)).all()
