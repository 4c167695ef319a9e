"""The hosts that work on a queue: each tells of itself, and an operator may have one drained.

A host is away once it has told nothing for its lease. One that is silent for a month is forgotten;
in an embedded queue, which has one daemon, all but that one are.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import BaseModel

from daemon.fleet.identity import host_name
from daemon.jobs.database import Database
from daemon.jobs.migrations import latest_version
from daemon.jobs.schema import hosts, jobs

_FORGOTTEN_AFTER_SECONDS = 30 * 86400.0

HostState = Literal["working", "draining", "drained", "away"]
HOST_STATES: tuple[HostState, ...] = ("working", "draining", "drained", "away")
DRAINED: tuple[HostState, ...] = ("draining", "drained")


class Device(BaseModel):
    """What clips are made on; the card's name and its memory in bytes where they are known."""

    device: str
    name: str | None
    memory: int | None


class HostReport(BaseModel):
    """What a host tells of itself."""

    devices: list[Device]
    takes: list[str]
    """Inboxes whose jobs it would claim now; none while no device can work."""
    reach: int | None
    """The most memory that a clip may need here, in bytes; None: any."""
    speed: float | None
    """Of all its devices, in millions of pixels denoised a second; None before its first clip."""


class HeldJob(BaseModel):
    """A job that a host has in hand."""

    id: int
    path: str
    state: Literal["running", "publishing"]


class Host(HostReport):
    """A host, as the queue knows it."""

    owner: str
    """The name under which it claims jobs."""
    name: str
    """By which an operator calls it: the owner's, without the number where one is called so."""
    state: HostState
    """Drained: it was told to claim nothing more, and has nothing in hand; it may be stopped."""
    alive: bool
    """Whether it has told anything within its lease."""
    here: bool
    """Whether it is the one that answers."""
    version: str
    """Of i2vd."""
    schema_version: int
    """Of the queue's tables, as its i2vd knows them."""
    started: float
    silent: float
    """Seconds since it told anything."""
    jobs: list[HeldJob]


class NoSuchHost(Exception):
    """No host has that name; the message says which there are."""


class Hosts:
    """What one daemon tells and is told. All methods raise QueueUnavailable."""

    def __init__(self, database: Database, owner: str, lease: float) -> None:
        self._database = database
        self._now = database.now
        self._owner = owner
        self._lease = lease
        self._ours = hosts.c.owner == owner

    def begin(self, facts: HostReport) -> None:
        """Tell that this host has started; that it is drained still holds."""
        with self._database.write() as db:
            self._write_report(db, facts, started=self._now)

    def heartbeat(self, facts: HostReport) -> None:
        """Tell that it lives, and forget those that have not for long."""
        with self._database.write() as db:
            self._write_report(db, facts)
            gone = (
                hosts.c.beat < self._now - _FORGOTTEN_AFTER_SECONDS
                if self._database.shared
                else ~self._ours
            )
            db.execute(hosts.delete().where(gone, ~self._ours))

    def leave(self) -> None:
        """Tell that it stops: others need not wait for its silence."""
        with self._database.write() as db:
            db.execute(hosts.update().where(self._ours).values(lease=self._now))

    def _write_report(self, db: sa.Connection, facts: HostReport, **more: Any) -> None:
        told = facts.model_dump(mode="json") | more
        if facts.speed is None:  # what it was before a restart is as good
            del told["speed"]
        told |= {"version": version("i2vd"), "schema": latest_version()}
        told |= {"beat": self._now, "lease": self._now + self._lease}
        if not db.execute(hosts.update().where(self._ours).values(told)).rowcount:
            db.execute(hosts.insert().values({"owner": self._owner, "started": self._now} | told))

    def all(self) -> list[Host]:
        """Every host that is known, by name."""
        hand = sa.select(jobs.c.owner, jobs.c.id, jobs.c.path, jobs.c.state)
        hand = hand.where(jobs.c.state.in_(["running", "publishing"])).order_by(jobs.c.id)
        alive = hosts.c.lease > self._now
        silent = (self._now - hosts.c.beat).label("silent")
        with self._database.read() as db:
            rows = db.execute(
                sa.select(hosts, alive.label("alive"), silent).order_by(hosts.c.owner)
            ).all()
            held = defaultdict(list)
            for owner, job, path, state in db.execute(hand):
                held[owner].append(HeldJob(id=job, path=path, state=state))
        names = Counter(host_name(row.owner) for row in rows)
        return [self._host(row, held[row.owner], names) for row in rows]

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
            here=row.owner == self._owner,
            version=row.version,
            schema_version=row.schema,
            started=row.started,
            silent=max(0.0, row.silent),
            jobs=held,
            **{key: getattr(row, key) for key in HostReport.model_fields},
        )

    def drain(self, name: str, draining: bool) -> Host:
        """Have a host claim nothing more, or again, over its restarts too. Raises NoSuchHost."""
        owner = self._called(name).owner
        with self._database.write() as db:
            db.execute(hosts.update().where(hosts.c.owner == owner).values(draining=draining))
        return self._called(name)

    def _called(self, name: str) -> Host:
        known = {host.name: host for host in self.all()}
        if name not in known:
            raise NoSuchHost(f"there is no host {name!r}; known: {', '.join(known)}")
        return known[name]
