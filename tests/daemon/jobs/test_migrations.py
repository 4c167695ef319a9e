"""Schema migrations, from version 1 to artificial versions 2 and 3 that each test registers."""

import multiprocessing
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import sqlalchemy as sa

from daemon.fleet.hosts import HostReport, Hosts
from daemon.jobs import migrations
from daemon.jobs.database import Database, DatabaseUnusable
from daemon.jobs.migrations import Migration
from daemon.jobs.queries import JobQueries
from daemon.jobs.schema import meta
from daemon.jobs.store import JobStore
from tests.daemon.conftest import claim

Register = Callable[..., None]


def add_colours(db: sa.Connection) -> None:
    """A table, columns with and without a default, an index, and values for the rows there are."""
    db.exec_driver_sql("create table colours (job bigint primary key, colour text not null)")
    db.exec_driver_sql("alter table jobs add column colour text")
    db.exec_driver_sql("alter table jobs add column shade integer not null default 7")
    db.exec_driver_sql("create index jobs_colour on jobs (colour)")
    db.exec_driver_sql("update jobs set colour = 'red'")


def add_sizes(db: sa.Connection) -> None:
    """Add a column to the table of `add_colours`."""
    db.exec_driver_sql("alter table colours add column size integer")


COLOURS = Migration(add_colours)
SIZES = Migration(add_sizes)


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    """Replace the steps that this i2vd knows."""

    def register(*steps: Migration) -> None:
        monkeypatch.setattr(migrations, "MIGRATIONS", steps)

    return register


@pytest.fixture
def old(url: str, database: Database, enqueue: Callable[..., list[int]]) -> str:
    """A queue of version 1 with three jobs, one of them failed, and no host."""
    for name in ("cat", "dog", "owl"):
        enqueue(f"{name}.jpg", sha256=name)
    store = JobStore(database)
    store.fail(claim(store), "damaged")
    database.close()
    return url


def read(url: str, query: str) -> list[tuple[object, ...]]:
    engine = sa.create_engine(url)
    with engine.connect() as db:
        found = [tuple(row) for row in db.exec_driver_sql(query)]
    engine.dispose()
    return found


def version(url: str) -> int:
    ((value,),) = read(url, "select value from meta where key = 'schema_version'")
    return int(str(value))


def schema(url: str) -> dict[str, list[str]]:
    """Columns and indexes of each table."""
    engine = sa.create_engine(url)
    found = sa.inspect(engine)
    tables = {
        table: sorted(
            [column["name"] for column in found.get_columns(table)]
            + [str(index["name"]) for index in found.get_indexes(table)]
        )
        for table in found.get_table_names()
    }
    engine.dispose()
    return tables


def rows(url: str) -> list[tuple[object, ...]]:
    return read(url, "select id, path, state, error, spec from jobs order by id")


# --- one step after another


def test_a_new_queue_has_version_1(url: str, database: Database) -> None:
    assert migrations.latest_version() == migrations.oldest_compatible_version() == 1
    assert read(url, "select key, value from meta order by key") == [
        ("oldest_schema", "1"),
        ("schema_version", "1"),
    ]
    before = schema(url)
    Database(url).close()
    assert schema(url) == before


def test_an_older_queue_is_migrated_with_its_jobs(old: str, register: Register) -> None:
    before, tables = rows(old), schema(old)
    register(COLOURS)
    database = Database(old)
    assert version(old) == 2
    assert rows(old) == before
    assert read(old, "select colour, shade from jobs") == 3 * [("red", 7)]
    changed = schema(old)
    assert changed.pop("colours") == ["colour", "job"]
    assert changed.pop("jobs") == sorted([*tables.pop("jobs"), "colour", "shade", "jobs_colour"])
    assert changed == tables, "nothing else has changed"
    assert claim(JobStore(database)).path == "dog.jpg"
    assert [job.state for job in JobQueries(database).newest()] == ["queued", "running", "failed"]
    database.close()


def test_only_missing_steps_are_applied_in_their_order(old: str, register: Register) -> None:
    register(COLOURS)
    Database(old).close()
    register(COLOURS, SIZES)
    Database(old).close()
    assert version(old) == 3
    Database(old).close()
    assert schema(old)["colours"] == ["colour", "job", "size"]


def test_two_steps_at_once_are_one_migration(old: str, register: Register) -> None:
    register(COLOURS, SIZES)
    Database(old).close()
    assert version(old) == 3
    assert schema(old)["colours"] == ["colour", "job", "size"]


def test_hosts_that_start_at_once_migrate_once(old: str, register: Register) -> None:
    def slow(db: sa.Connection) -> None:
        add_colours(db)
        time.sleep(0.5)

    register(Migration(slow))
    with ThreadPoolExecutor(3) as pool:
        for database in pool.map(Database, 3 * [old]):
            database.close()
    assert version(old) == 2
    if old.startswith("sqlite"):
        assert version(f"{old}.v1") == 1


def test_a_migration_may_take_longer_than_any_other_statement(old: str, register: Register) -> None:
    """PostgreSQL ends others after two seconds here; a long history needs longer."""

    def slow(db: sa.Connection) -> None:
        if db.dialect.name == "postgresql":
            db.exec_driver_sql("select pg_sleep(2.2)")

    register(Migration(slow))
    Database(old, lease=3).close()
    assert version(old) == 2


# --- the copy of an SQLite file


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_copy_of_the_old_file_stays_beside_it(
    database: Database, enqueue: Callable[..., list[int]], url: str, register: Register
) -> None:
    """Also of what is still in the write-ahead log. PostgreSQL is copied by its operator."""
    enqueue("cat.jpg")
    before, tables = rows(url), schema(url)
    register(COLOURS, SIZES)
    Database(url).close()
    copy = f"{url}.v1"
    assert (version(copy), rows(copy), schema(copy)) == (1, before, tables)
    assert read(copy, "pragma integrity_check") == [("ok",)]
    assert version(url) == 3


def test_a_queue_that_needs_no_migration_is_not_copied(tmp_path: Path, register: Register) -> None:
    register(COLOURS)
    for _ in range(2):
        Database(f"sqlite:///{tmp_path}/queue.sqlite").close()
    assert not [*tmp_path.glob("*.v*")]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_without_a_copy_nothing_is_migrated(
    tmp_path: Path, enqueue: Callable[..., list[int]], url: str, register: Register
) -> None:
    enqueue("cat.jpg")
    in_the_way = tmp_path / "queue.sqlite.v1"
    in_the_way.mkdir()
    register(COLOURS)
    with pytest.raises(DatabaseUnusable, match="cannot be copied") as refused:
        Database(url)
    assert refused.value.temporary
    assert version(url) == 1
    assert not [*tmp_path.glob("*.part")]
    in_the_way.rmdir()
    Database(url).close()
    assert (version(url), version(f"{url}.v1")) == (2, 1)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_migration_that_is_refused_copies_nothing(
    url: str, database: Database, tmp_path: Path, register: Register
) -> None:
    """A start that waits is repeated every few seconds."""
    Hosts(database, "one", lease=60).begin(
        HostReport(devices=[], accepts=[], memory_limit=None, speed=None)
    )
    register(Migration(add_colours, breaking=True))
    with pytest.raises(DatabaseUnusable):
        Database(url)
    assert not [*tmp_path.glob("*.v*")]


# --- what ends a migration


def test_a_step_that_fails_leaves_the_old_version(old: str, register: Register) -> None:
    def fail(db: sa.Connection) -> None:
        add_sizes(db)
        raise OSError("the disk is full")

    before, tables = rows(old), schema(old)
    register(COLOURS, Migration(fail))
    with pytest.raises(OSError, match="full"):
        Database(old)
    assert (version(old), rows(old), schema(old)) == (1, before, tables)


def _migrate_until_killed(url: str, started: Connection) -> None:
    def hang(db: sa.Connection) -> None:
        add_sizes(db)
        started.send("both steps have run")
        time.sleep(60)

    migrations.MIGRATIONS = (COLOURS, Migration(hang))
    Database(url)


def test_a_kill_amid_a_migration_leaves_the_old_version(old: str, register: Register) -> None:
    before, tables = rows(old), schema(old)
    parent, child = multiprocessing.Pipe()
    spawned = multiprocessing.get_context("spawn")
    process = spawned.Process(target=_migrate_until_killed, args=(old, child))
    process.start()
    try:
        assert parent.poll(30)
    finally:
        process.kill()
        process.join()
    assert (version(old), rows(old), schema(old)) == (1, before, tables)
    if old.startswith("sqlite"):
        assert version(f"{old}.v1") == 1
        with closing(sqlite3.connect(old.removeprefix("sqlite:///"))) as db:
            assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
    register(COLOURS, SIZES)
    Database(old).close()
    assert version(old) == 3
    assert rows(old) == before


# --- hosts of several versions


def newer(database: Database, oldest: int | None) -> None:
    """Leave a queue as an i2vd of version 99 does that `oldest` and later versions can use."""
    with database.write() as db:
        db.execute(meta.update().where(meta.c.key == "schema_version").values(value="99"))
        db.execute(meta.delete().where(meta.c.key == "oldest_schema"))
        if oldest is not None:
            db.execute(meta.insert().values(key="oldest_schema", value=str(oldest)))


@pytest.mark.parametrize("oldest", [99, 2, None])
def test_a_newer_queue_that_we_cannot_use_is_refused(
    url: str, database: Database, oldest: int | None
) -> None:
    newer(database, oldest)
    why = "has schema 99, this i2vd knows 1"
    with pytest.raises(DatabaseUnusable, match=why) as refused:
        Database(url)
    assert not refused.value.temporary
    assert why in (database.incompatibility() or "")
    assert version(url) == 99


def test_a_newer_queue_that_we_can_use_is_left_as_it_is(url: str, database: Database) -> None:
    newer(database, 1)
    Database(url).close()
    assert version(url) == 99
    assert database.incompatibility() is None


def test_an_additive_step_lets_the_older_version_work(
    url: str, database: Database, register: Register, enqueue: Callable[..., list[int]]
) -> None:
    here = Hosts(database, "one", lease=60)
    here.begin(HostReport(devices=[], accepts=[], memory_limit=None, speed=None))
    register(COLOURS)
    Database(url).close()
    register()
    assert version(url) == 2
    assert database.incompatibility() is None
    Database(url).close()
    enqueue("cat.jpg")
    assert claim(JobStore(database)).path == "cat.jpg"


def test_a_breaking_step_waits_for_hosts_of_the_older_version(
    url: str, database: Database, register: Register
) -> None:
    here = Hosts(database, "one", lease=60)
    here.begin(HostReport(devices=[], accepts=[], memory_limit=None, speed=None))
    register(Migration(add_colours, breaking=True), SIZES)
    with pytest.raises(DatabaseUnusable, match="still in use by an older i2vd on one") as refused:
        Database(url)
    assert refused.value.temporary
    assert version(url) == 1
    here.leave()
    Database(url).close()
    register()
    assert version(url) == 3
    assert "has schema 3, this i2vd knows 1" in (database.incompatibility() or "")


def test_a_breaking_step_does_not_wait_for_hosts_that_know_it(
    url: str, database: Database, register: Register
) -> None:
    breaking = Migration(add_colours, breaking=True)
    register(breaking)
    there = Database(url)
    Hosts(there, "one", lease=60).begin(
        HostReport(devices=[], accepts=[], memory_limit=None, speed=None)
    )
    register(breaking, SIZES)
    Database(url).close()
    register(breaking)
    assert version(url) == 3
    assert there.incompatibility() is None
    there.close()
