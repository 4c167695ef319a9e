"""Database access: connections, transactions, the clock, advisory locks and errors.

SQLite for one daemon, PostgreSQL for a fleet. What the tables mean is left to store.py,
recovery.py and queries.py.
"""

import contextlib
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from daemon.fs.instance import instance_id
from daemon.jobs.job import EventName
from daemon.jobs.migrations import Incompatibility, UnreadableVersion, incompatibility, migrate
from daemon.jobs.schema import events, meta

_LEASE_SECONDS = 30.0


def _postgresql_options(lease: float) -> dict[str, Any]:
    """Return engine options for PostgreSQL: few idle connections, and timeouts below the lease.

    A network that drops all packets reports no error. Without these limits a host would wait
    forever for an answer, and its locks would outlive it.
    """
    network_timeout = max(2, min(10, int(lease / 3)))
    idle, interval, count = max(1, network_timeout // 2), max(1, network_timeout // 5), 2
    statement_timeout = max(2, int(lease * 2 / 3))
    server_settings = {
        "statement_timeout": f"{statement_timeout}s",
        "idle_in_transaction_session_timeout": f"{statement_timeout}s",
        "tcp_user_timeout": f"{network_timeout}s",
        "tcp_keepalives_idle": idle,
        "tcp_keepalives_interval": interval,
        "tcp_keepalives_count": count,
    }
    client_settings = {
        "prepare_threshold": None,  # one plan for all values would read the whole history
        "connect_timeout": max(2, network_timeout // 2),
        "tcp_user_timeout": network_timeout * 1000,
        "keepalives_idle": idle,
        "keepalives_interval": interval,
        "keepalives_count": count,
        "options": " ".join(f"-c {key}={value}" for key, value in server_settings.items()),
    }
    return {
        "pool_pre_ping": True,
        "pool_size": 2,
        "max_overflow": 13,
        "pool_use_lifo": True,
        "connect_args": client_settings,
    }


_CORRUPTION_WORDS = ("malformed", "not a database", "file is encrypted")
_ADVISORY_LOCK_SEED = 7319204
"""Keeps the keys of `advisory_lock` apart from other advisory locks in the database."""

_TEMPORARY_WORDS = (
    "locked", "full", "disk I/O", "readonly", "unable to open",
    "refused", "timeout", "timed out", "unreachable", "No route", "resolve", "No such file",
    "starting up", "shutting down", "recovery", "too many", "closed the connection", "terminating",
)  # fmt: skip
"""Words in error messages of SQLite and PostgreSQL that mark an error as temporary."""


def shown(url: sa.URL) -> str:
    """Return a URL as messages show it: without passwords, and a file as its path."""
    if url.get_backend_name() == "sqlite":
        return url.database or ":memory:"
    public = {key: value for key, value in url.query.items() if "pass" not in key.lower()}
    return url.set(query=public).render_as_string()


class DatabaseUnusable(Exception):
    """The queue cannot be opened. The message has the reason and the cure.

    `temporary` is True if the error may end by itself.
    """

    def __init__(self, message: str, *, temporary: bool = False) -> None:
        super().__init__(message)
        self.temporary = temporary


class QueueUnavailable(OSError):
    """A statement failed: locked, disk full, damaged or unreachable. Nothing was changed."""


class Database:
    """SQLite on a local disk, or PostgreSQL. Safe to use from several threads and processes."""

    def __init__(self, url: str | sa.URL, lease: float = _LEASE_SECONDS) -> None:
        """Open the database, and create, migrate or check its tables.

        `lease` is `queue.lease` in seconds. Raises DatabaseUnusable.
        """
        url = sa.make_url(url)
        self._url = shown(url)
        shared = url.get_backend_name() == "postgresql"
        try:
            self._engine = sa.create_engine(url, **_postgresql_options(lease) if shared else {})
        except (sa.exc.ArgumentError, ImportError) as error:
            raise DatabaseUnusable(f"queue.url {self._url}: {error}") from error
        self._sqlite = self._engine.dialect.name == "sqlite"
        self._file = Path(self._engine.url.database or "") if self._sqlite else None
        self._identity: tuple[int, int] | None = None
        self._reachable_since = time.monotonic()
        self._locked: set[str] = set()
        self._unlocked = threading.Condition()
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
        try:
            self._create()
        except QueueUnavailable as error:
            self.close()
            temporary = any(word in str(error) for word in _TEMPORARY_WORDS)
            raise DatabaseUnusable(str(error), temporary=temporary) from error
        except BaseException:
            self.close()
            raise
        self._identity = self._identify()

    @property
    def location(self) -> str:
        """Path of the SQLite file, or URL of the database without its password."""
        return self._url

    def identity(self) -> str:
        """Return the durable id of this queue: the database's, or the folder's of an SQLite file.

        An SQLite file that is lost or restored is the same queue. Raises OSError.
        """
        if self._file is not None:
            return f"{instance_id(self._file.parent)} {self._file.name}"
        query = sa.select(meta.c.value).where(meta.c.key == "identity")
        with self.read() as db:
            known: str | None = db.scalar(query)
        if known is None:
            new = {"key": "identity", "value": uuid.uuid4().hex}
            with contextlib.suppress(IntegrityError), self.write() as db:  # another host was first
                db.execute(meta.insert().values(**new))
            with self.read() as db:
                known = db.scalar(query)
        return str(known)

    @property
    def shared(self) -> bool:
        """True if other hosts may use the same queue, as in PostgreSQL."""
        return not self._sqlite

    def seconds_reachable(self) -> float:
        """Return the seconds since the last error, or since the database was opened."""
        return time.monotonic() - self._reachable_since

    @contextmanager
    def advisory_lock(self, name: str, *, wait: bool = False) -> Iterator[bool]:
        """Advisory lock: yield True if this caller holds `name`, exclusively in the fleet.

        With `wait`, block until the lock is free. The lock ends with its connection, so a host
        that dies blocks no other host. Raises QueueUnavailable.
        """
        with self._unlocked:
            if wait:
                self._unlocked.wait_for(lambda: name not in self._locked)
            taken = name in self._locked
            self._locked.add(name)
        if taken:
            yield False
            return
        try:
            with self._fleet_advisory_lock(name, wait=wait) as acquired:
                yield acquired
        finally:
            with self._unlocked:
                self._locked.remove(name)
                self._unlocked.notify_all()

    @contextmanager
    def _fleet_advisory_lock(self, name: str, *, wait: bool) -> Iterator[bool]:
        if self._sqlite:
            yield True
            return
        key = sa.func.hashtextextended(name, _ADVISORY_LOCK_SEED)
        with self.read() as db:
            if wait:
                db.execute(sa.select(sa.func.pg_advisory_lock(key)))
            acquired = wait or bool(db.scalar(sa.select(sa.func.pg_try_advisory_lock(key))))
            try:
                yield acquired
            finally:
                if acquired:
                    db.execute(sa.select(sa.func.pg_advisory_unlock(key)))

    def is_settled(self, table: sa.Table) -> sa.ColumnElement[bool]:
        """Return a clause that is true for a row if no row with a lower id can still appear.

        PostgreSQL assigns ids before the commit, so a higher id may become visible first.
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
            try:
                problem = migrate(db, self.now, self._file)
            except UnreadableVersion as error:
                problem = Incompatibility(str(error))
            if problem:
                raise DatabaseUnusable(
                    f"the queue at {self._url} {problem.reason}", temporary=problem.temporary
                )

    def incompatibility(self) -> str | None:
        """Return why this i2vd can no longer use the queue: a newer one has changed the tables.

        None if it can. Raises QueueUnavailable.
        """
        try:
            with self.read() as db:
                problem = incompatibility(db)
        except UnreadableVersion as error:
            problem = Incompatibility(str(error))
        return problem and f"the queue at {self._url} {problem.reason}"

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Open a write transaction, committed at the end.

        Raises QueueUnavailable after a rollback.
        """
        try:
            with self._engine.begin() as db:
                yield db
        except IntegrityError:
            raise
        except (DBAPIError, PoolTimeout) as error:
            self._reachable_since = time.monotonic()
            raise QueueUnavailable(self._describe_error(error)) from error

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Open a connection that takes no write lock on SQLite. Raises QueueUnavailable."""
        try:
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
                yield db
        except (DBAPIError, PoolTimeout) as error:
            self._reachable_since = time.monotonic()
            raise QueueUnavailable(self._describe_error(error)) from error

    def record_event(self, db: sa.Connection, job: int, event: EventName, detail: str = "") -> None:
        """Append an event of a job, within the transaction that changes the job."""
        entry = {"job": job, "event": event, "detail": detail}
        db.execute(self._new_event, entry)

    def shrink(self, pages: int) -> bool:
        """Return some free pages of an SQLite file to the file system; False if it gave none back.

        PostgreSQL reuses them by itself. Raises QueueUnavailable.
        """
        if not self._sqlite:
            return False
        with self.read() as db:
            free = _free_pages(db)
            connection: Any = db.connection.driver_connection
            try:  # a script, because execute() would take the first step only: one page
                connection.executescript(f"PRAGMA incremental_vacuum({pages})")
            except sqlite3.Error as error:
                reason = f"the queue at {self._url} cannot be used: {error}"
                raise QueueUnavailable(reason) from error
            return _free_pages(db) < free

    def try_write(self) -> None:
        """Write and delete a probe row. Raises QueueUnavailable."""
        with self.write() as db:
            db.execute(meta.insert().values(key="probe", value=""))
            db.execute(meta.delete().where(meta.c.key == "probe"))

    def unusable_reason(self) -> str | None:
        """Return why new writes would be lost: the SQLite file was deleted or replaced.

        None if it was not.
        """
        if self._identity is None or self._identify() == self._identity:
            return None
        return (
            f"{self._file} was deleted or replaced while i2vd was running; it ends after "
            f"the work in hand; started again, it begins a new queue with what lies in the inboxes"
        )

    def _refuse_another_file(self, *_: object) -> None:
        """Refuse new connections after the file was replaced.

        Running jobs continue on the open connections, which still have the deleted file.
        """
        if reason := self.unusable_reason():
            raise sqlite3.OperationalError(reason)

    def _identify(self) -> tuple[int, int] | None:
        if self._file is None:
            return None
        try:
            status = self._file.stat()
        except OSError:
            return (0, 0)
        return (status.st_dev, status.st_ino)

    def _describe_error(self, error: DBAPIError | PoolTimeout) -> str:
        cause = error.orig if isinstance(error, DBAPIError) else error
        text = f"the queue at {self._url} cannot be used: {str(cause).strip()}"
        if any(word in text for word in _CORRUPTION_WORDS):
            text += (
                f"; it is damaged: stop i2vd, move {self._file} and its -wal and -shm away, and "
                f"start i2vd again, which takes what lies in the inboxes anew"
            )
        return text


def _free_pages(db: sa.Connection) -> int:
    return db.exec_driver_sql("PRAGMA freelist_count").scalar() or 0


def prepare_sqlite(engine: sa.Engine) -> None:
    """Configure SQLite: WAL, full sync, BEGIN IMMEDIATE, and a new file that can shrink.

    A commit survives a power cut, and no transaction fails because it cannot upgrade its lock.
    """

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.text_factory = _decode
        connection.execute("PRAGMA busy_timeout=5000")
        if connection.execute("PRAGMA page_count").fetchone() == (0,):  # else it would be written
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    def _decode(text: bytes) -> str:
        return text.decode(errors="replace")  # a text that is damaged costs its own row only

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
