"""Fit: which jobs a device leaves to others, because its memory is too small for them.

A job knows what it needs as it was asked (`Forecast.least`), a device how much of that it can reach
(`Forecast.reach`). Where no device that lives can, any may take the job: the ladder makes it less.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from daemon.tables import jobs


@dataclass(frozen=True)
class Fit:
    """Of one device. `elsewhere`: the most that any other device can reach, by inbox."""

    reach: int
    elsewhere: Mapping[str, int]

    def clause(self) -> sa.ColumnElement[bool]:
        """The jobs that it may take."""
        beyond_all = [
            (jobs.c.inbox == inbox) & (jobs.c.need > most) for inbox, most in self.elsewhere.items()
        ]
        return sa.or_(
            jobs.c.need.is_(None),
            jobs.c.need <= self.reach,
            jobs.c.inbox.not_in(self.elsewhere),
            *beyond_all,
        )
