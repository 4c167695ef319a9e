"""Hosts table: each daemon reports itself by heartbeat, and an operator may drain a host.

A host without a heartbeat for its lease is away. After a month without one, its row is deleted. An
SQLite queue has one daemon, so all other rows are deleted there at once.
"""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ValidationError

from daemon.fleet.identity import host_name
from daemon.jobs.database import Database
from daemon.jobs.migrations import latest_version
from daemon.jobs.schema import hosts, is_typed, jobs

_MAX_AWAY_SECONDS = 30 * 86400.0

HostState = Literal["working", "draining", "drained", "away"]
HOST_STATES: tuple[HostState, ...] = ("working", "draining", "drained", "away")
DRAINED: tuple[HostState, ...] = ("draining", "drained")


class Device(BaseModel):
    """A device of a host; the card's name and its memory in bytes, if known."""

    device: str
    name: str | None
    memory: int | None


class HostReport(BaseModel):
    """The part of a host's row that its daemon measures."""

    devices: list[Device]
    accepts: list[str]
    """Inboxes whose jobs the host claims now; empty while no device works."""
    memory_limit: int | None
    """Largest required memory of a job that fits here, in bytes; None: no limit."""
    speed: float | None
    """Throughput of all devices, in millions of pixels denoised per second; None before the
    first clip."""


class HeldJob(BaseModel):
    """A job that a host is running or publishing."""

    id: int
    path: str
    state: Literal["running", "publishing"]


class Host(HostReport):
    """A host of the queue."""

    owner: str
    """The name under which it claims jobs."""
    name: str
    """The name for operators: the host name, or the owner if several hosts share that name."""
    state: HostState
    """"draining": claims no jobs. "drained": and runs none any more, so it may be stopped."""
    alive: bool
    """True if its last heartbeat is within its lease."""
    is_local: bool
    """True for the host that answers the request."""
    version: str
    """The i2vd version."""
    schema_version: int
    """The latest schema version that its i2vd knows."""
    started: float
    seconds_since_heartbeat: float
    jobs: list[HeldJob]


class NoSuchHost(Exception):
    """No host has that name; the message lists the known names."""


class Hosts:
    """The hosts table, from the view of one daemon. All methods raise QueueUnavailable."""

    def __init__(self, database: Database, owner: str, lease: float) -> None:
        self._database = database
        self._now = database.now
        self._owner = owner
        self._lease = lease
        self._is_own_row = hosts.c.owner == owner

    def begin(self, report: HostReport) -> None:
        """Write the first heartbeat after a start. A drained host stays drained."""
        with self._database.write() as db:
            self._write_report(db, report, started=self._now)

    def heartbeat(self, report: HostReport) -> None:
        """Write a heartbeat, and prune the hosts that have been away for too long."""
        with self._database.write() as db:
            self._write_report(db, report)
            expired = (
                hosts.c.last_heartbeat < self._now - _MAX_AWAY_SECONDS
                if self._database.shared
                else ~self._is_own_row
            )
            db.execute(hosts.delete().where(expired, ~self._is_own_row))

    def leave(self) -> None:
        """End the lease of this host, so that others need not wait until it expires."""
        with self._database.write() as db:
            db.execute(hosts.update().where(self._is_own_row).values(lease=self._now))

    def _write_report(self, db: sa.Connection, report: HostReport, **more: Any) -> None:
        values = report.model_dump(mode="json") | more
        if report.speed is None:  # the value from before a restart is still valid
            del values["speed"]
        values |= {"version": version("i2vd"), "schema": latest_version()}
        values |= {"last_heartbeat": self._now, "lease": self._now + self._lease}
        if not db.execute(hosts.update().where(self._is_own_row).values(values)).rowcount:
            new = {"owner": self._owner, "started": self._now}
            db.execute(hosts.insert().values(new | values))

    def all(self) -> list[Host]:
        """Return all hosts, sorted by owner."""
        active = sa.select(jobs.c.owner, jobs.c.id, jobs.c.path, jobs.c.state)
        active = active.where(jobs.c.state.in_(["running", "publishing"]), is_typed(jobs.c.path))
        active = active.order_by(jobs.c.id)
        alive = hosts.c.lease > self._now
        silence = (self._now - hosts.c.last_heartbeat).label("silence")
        with self._database.read() as db:
            rows = db.execute(
                sa.select(hosts, alive.label("alive"), silence).order_by(hosts.c.owner)
            ).all()
            held = defaultdict(list)
            for owner, job, path, state in db.execute(active):
                held[owner].append(HeldJob(id=job, path=path, state=state))
        names = Counter(host_name(row.owner) for row in rows)
        found = []
        for row in rows:
            with contextlib.suppress(ValidationError):  # damaged; its heartbeat writes it again
                found.append(self._host(row, held[row.owner], names))
        return found

    def _host(self, row: Any, held: list[HeldJob], names: Mapping[str, int]) -> Host:
        name = host_name(row.owner)
        state: HostState = "working" if row.alive else "away"
        if row.draining:
            state = "draining" if held else "drained"
        return Host(
            owner=row.owner,
            name=name if names[name] == 1 else row.owner,
            state=state,
            alive=row.alive,
            is_local=row.owner == self._owner,
            version=row.version,
            schema_version=row.schema,
            started=row.started,
            seconds_since_heartbeat=max(0.0, row.silence),
            jobs=held,
            **{key: getattr(row, key) for key in HostReport.model_fields},
        )

    def drain(self, name: str, draining: bool) -> Host:
        """Drain a host, or let it claim again. Survives its restarts. Raises NoSuchHost."""
        owner = self._find(name).owner
        with self._database.write() as db:
            db.execute(hosts.update().where(hosts.c.owner == owner).values(draining=draining))
        return self._find(name)

    def _find(self, name: str) -> Host:
        known = {host.name: host for host in self.all()}
        if name not in known:
            raise NoSuchHost(f"there is no host {name!r}; known: {', '.join(known)}")
        return known[name]
