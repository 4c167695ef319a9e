"""The database of the ledger: how it is opened, its clock, and its errors."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from daemon.jobs.migrations import incompatibility, migrate
from daemon.jobs.schema import events, meta

_LEASE = 30.0


def _server(lease: float) -> dict[str, Any]:
    """For PostgreSQL: few connections at rest, and either side notices a cut within the lease.

    A network that swallows everything tells nobody: without these limits a host would wait for an
    answer for ever, and its locks would outlive it.
    """
    cut = max(2, min(10, int(lease / 3)))
    idle, interval, count = max(1, cut // 2), max(1, cut // 5), 2
    slow = max(2, int(lease * 2 / 3))
    theirs = {
        "statement_timeout": f"{slow}s",
        "idle_in_transaction_session_timeout": f"{slow}s",
        "tcp_user_timeout": f"{cut}s",
        "tcp_keepalives_idle": idle,
        "tcp_keepalives_interval": interval,
        "tcp_keepalives_count": count,
    }
    ours = {
        "prepare_threshold": None,  # one plan for all values would read the whole history
        "connect_timeout": max(2, cut // 2),
        "tcp_user_timeout": cut * 1000,
        "keepalives_idle": idle,
        "keepalives_interval": interval,
        "keepalives_count": count,
        "options": " ".join(f"-c {key}={value}" for key, value in theirs.items()),
    }
    return {
        "pool_pre_ping": True,
        "pool_size": 2,
        "max_overflow": 13,
        "pool_use_lifo": True,
        "connect_args": ours,
    }


_DAMAGED = ("malformed", "not a database", "file is encrypted")
_ALONE = 7319204
"""Tells the advisory locks of `alone` from others."""

_PASSING = (
    "locked", "full", "disk I/O", "readonly", "unable to open",
    "refused", "timeout", "timed out", "unreachable", "No route", "resolve", "No such file",
    "starting up", "shutting down", "recovery", "too many", "closed the connection", "terminating",
)  # fmt: skip
"""Words of errors that may be over in a while: of SQLite, and of a PostgreSQL that is away."""


class DatabaseUnusable(Exception):
    """The message says why and what to do; `passing` when it may be over in a while."""

    def __init__(self, message: str, *, temporary: bool = False) -> None:
        super().__init__(message)
        self.temporary = temporary


class QueueUnavailable(OSError):
    """The database could not do it now: locked, disk full, damaged, away. Nothing was changed."""


class Database:
    """SQLite on a local disk, or PostgreSQL. Safe to use from several threads and processes."""

    def __init__(self, url: str, lease: float = _LEASE) -> None:
        """Open, and create or check the tables; `lease` as in the settings.

        Raises DatabaseUnusable.
        """
        try:
            server = url.startswith("postgresql")
            self._engine = sa.create_engine(url, **(_server(lease) if server else {}))
        except (sa.exc.ArgumentError, ImportError) as error:
            raise DatabaseUnusable(f"queue.url {url!r}: {error}") from error
        self._sqlite = self._engine.dialect.name == "sqlite"
        self._file = Path(self._engine.url.database or "") if self._sqlite else None
        self._identity: tuple[int, int] | None = None
        self._since = time.monotonic()
        self._inside: set[str] = set()
        self._left = threading.Condition()
        if self._sqlite:
            prepare_sqlite(self._engine)
            sa.event.listen(self._engine, "do_connect", self._refuse_another_file)
        self.now = sa.literal_column(
            "((julianday('now') - 2440587.5) * 86400.0)"
            if self._sqlite
            else "extract(epoch from clock_timestamp())::float8",
            type_=sa.Float,
        )
        self._new_event = events.insert().values(at=self.now)
        self._url = self._engine.url.render_as_string()
        try:
            self._create()
        except QueueUnavailable as error:
            self.close()
            passing = any(word in str(error) for word in _PASSING)
            raise DatabaseUnusable(str(error), temporary=passing) from error
        except BaseException:
            self.close()
            raise
        self._identity = self._identify()

    @property
    def shared(self) -> bool:
        """Whether other hosts may work on the same queue: in PostgreSQL."""
        return not self._sqlite

    def seconds_reachable(self) -> float:
        """Seconds since the queue could be reached again after it could not, or since the start."""
        return time.monotonic() - self._since

    @contextmanager
    def advisory_lock(self, what: str, *, wait: bool = False) -> Iterator[bool]:
        """Whether nobody else, in this daemon or on another host, is in here for `what` now.

        With `wait` it is entered once they have left. It ends with the connection: a host that dies
        holds nobody up. Raises QueueUnavailable.
        """
        with self._left:
            if wait:
                self._left.wait_for(lambda: what not in self._inside)
            taken = what in self._inside
            self._inside.add(what)
        if taken:
            yield False
            return
        try:
            with self._fleet_advisory_lock(what, wait=wait) as alone:
                yield alone
        finally:
            with self._left:
                self._inside.remove(what)
                self._left.notify_all()

    @contextmanager
    def _fleet_advisory_lock(self, what: str, *, wait: bool) -> Iterator[bool]:
        if self._sqlite:
            yield True
            return
        key = sa.func.hashtextextended(what, _ALONE)
        with self.read() as db:
            if wait:
                db.execute(sa.select(sa.func.pg_advisory_lock(key)))
            mine = wait or bool(db.scalar(sa.select(sa.func.pg_try_advisory_lock(key))))
            try:
                yield mine
            finally:
                if mine:
                    db.execute(sa.select(sa.func.pg_advisory_unlock(key)))

    def is_settled(self, table: sa.Table) -> sa.ColumnElement[bool]:
        """Of a row: no row with a lower number can still appear.

        In PostgreSQL numbers are given before the commit, so that a later one may be seen first.
        """
        if self._sqlite:  # one writer at a time
            return sa.true()
        oldest = "pg_snapshot_xmin(pg_current_snapshot())::xid"
        return sa.literal_column(f"age({table.name}.xmin) > age({oldest})", sa.Boolean)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _create(self) -> None:
        with self.write() as db:
            if not self._sqlite:  # two hosts may start at once
                db.exec_driver_sql("select pg_advisory_xact_lock(7319203)")
                for limit in ("statement_timeout", "idle_in_transaction_session_timeout"):
                    db.exec_driver_sql(f"set local {limit} = 0")  # a long history takes longer
            if why := migrate(db, self.now, self._file):
                raise DatabaseUnusable(
                    f"the queue at {self._url} {why.reason}", temporary=why.temporary
                )

    def incompatibility(self) -> str | None:
        """Return why this i2vd can no longer use the queue: a newer one has changed the tables.

        Raises QueueUnavailable.
        """
        with self.read() as db:
            why = incompatibility(db)
        return why and f"the queue at {self._url} {why.reason}"

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that may change something; committed at the end.

        Raises QueueUnavailable, and then nothing was changed.
        """
        try:
            with self._engine.begin() as db:
                yield db
        except IntegrityError:
            raise
        except (DBAPIError, PoolTimeout) as error:
            self._since = time.monotonic()
            raise QueueUnavailable(self._translate_error(error)) from error

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection that takes no write lock on SQLite. Raises QueueUnavailable."""
        try:
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
                yield db
        except (DBAPIError, PoolTimeout) as error:
            self._since = time.monotonic()
            raise QueueUnavailable(self._translate_error(error)) from error

    def note(self, db: sa.Connection, job: int, event: str, detail: str = "") -> None:
        """Enter what happens to a job, within the transaction that makes it happen."""
        entry = {"job": job, "event": event, "detail": detail}
        db.execute(self._new_event, entry)

    def try_write(self) -> None:
        """Change something and take it back. Raises QueueUnavailable."""
        with self.write() as db:
            db.execute(meta.insert().values(key="probe", value=""))
            db.execute(meta.delete().where(meta.c.key == "probe"))

    def unusable_reason(self) -> str | None:
        """Why what is written now would be lost: the file was deleted or replaced under us."""
        if self._identity is None or self._identify() == self._identity:
            return None
        return (
            f"{self._file} was deleted or replaced while i2vd was running; it ends after "
            f"the work in hand; started again, it begins a new queue with what lies in the inboxes"
        )

    def _refuse_another_file(self, *_: object) -> None:
        """The work in hand goes on in the connections that still hold the deleted file."""
        if why := self.unusable_reason():
            raise sqlite3.OperationalError(why)

    def _identify(self) -> tuple[int, int] | None:
        if self._file is None:
            return None
        try:
            status = self._file.stat()
        except OSError:
            return (0, 0)
        return (status.st_dev, status.st_ino)

    def _translate_error(self, error: DBAPIError | PoolTimeout) -> str:
        why = error.orig if isinstance(error, DBAPIError) else error
        text = f"the queue at {self._url} cannot be used: {str(why).strip()}"
        if any(word in text for word in _DAMAGED):
            text += (
                f"; it is damaged: stop i2vd, move {self._file} and its -wal and -shm away, and "
                f"start i2vd again, which takes what lies in the inboxes anew"
            )
        return text


def prepare_sqlite(engine: sa.Engine) -> None:
    """WAL and full sync: a commit survives a power cut. BEGIN IMMEDIATE: no lock upgrade fails."""

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
