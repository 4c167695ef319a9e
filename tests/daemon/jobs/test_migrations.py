"""Migrations: an older queue is carried over whole, or left as it was; a copy of it stays."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

import daemon.jobs.database
from daemon.fleet.hosts import Facts, Hosts
from daemon.jobs import migrations
from daemon.jobs.database import Database, DatabaseUnusable
from daemon.jobs.queries import History, Shape, Wanted
from daemon.jobs.schema import SCHEMA_VERSION, jobs, meta, peaks, submissions

OLD = Path(__file__).with_name("queue_v1.sql")
"""A queue as version 1 left it, with three jobs in it."""


@pytest.fixture
def old(url: str) -> str:
    engine = sa.create_engine(url)
    with engine.begin() as db:
        for statement in OLD.read_text(encoding="utf-8").split(";\n"):
            if statement.strip():
                db.execute(sa.text(statement.replace(":", "\\:")))
    engine.dispose()
    return url


@pytest.fixture
def new(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path}/new.sqlite")
    yield opened
    opened.close()


def tables(database: Database) -> dict[str, list[str]]:
    """The columns of each table, and the names of all indexes."""
    with database.read() as db:
        there = sa.inspect(db)
        found = {
            each: sorted(c["name"] for c in there.get_columns(each))
            for each in there.get_table_names()
        }
        indexes = [i for each in found for i in there.get_indexes(each)]
    return found | {
        "indexes": sorted(str(i["name"]) for i in indexes if not i.get("duplicates_constraint"))
    }


def version(url: str) -> str:
    engine = sa.create_engine(url)
    with engine.connect() as db:
        found = db.scalar(sa.select(meta.c.value).where(meta.c.key == "schema_version"))
    engine.dispose()
    return str(found)


def test_an_older_queue_is_carried_over_and_kept(old: str) -> None:
    database = Database(old)
    with database.read() as db:
        there = db.execute(sa.select(jobs.c.path, jobs.c.preset).order_by(jobs.c.id)).all()
        assert there == [("cat.jpg", "draft"), ("dog.jpg", "high"), ("bad.jpg", None)]
    history = History(database)
    outcomes = sorted(history.outcomes())
    assert outcomes == [("done", "90-default", "draft", 1), ("failed", "", "", 1)]
    (waiting,) = history.newest(Wanted(preset="high"))
    assert waiting.path == "dog.jpg"
    assert waiting.spec
    assert history.queued() == [(Shape.of(waiting.spec), 1)], (
        "it was asked before there were speeds"
    )
    database.close()
    assert version(old) == str(SCHEMA_VERSION)
    if old.startswith("sqlite"):  # in PostgreSQL the administrator keeps copies
        assert version(f"{old}.v1") == "1"
    Database(old).close()


def test_an_older_queue_gets_the_tables_of_a_new_one(old: str, new: Database) -> None:
    carried = Database(old)
    assert tables(carried) == tables(new)
    carried.close()


def test_an_index_of_other_columns_is_made_anew(url: str) -> None:
    """PostgreSQL read all of the one that version 7 made."""

    def columns(database: Database) -> list[str | None]:
        with database.read() as db:
            indexes = sa.inspect(db).get_indexes("jobs")
        return next(i["column_names"] for i in indexes if i["name"] == "jobs_next_of_need")

    database = Database(url)
    made = columns(database)
    with database.write() as db:
        db.execute(meta.update().where(meta.c.key == "schema_version").values(value="7"))
        db.exec_driver_sql("drop index jobs_next_of_need")
        db.exec_driver_sql("create index jobs_next_of_need on jobs (id)")
    database.close()
    database = Database(url)
    assert columns(database) == made
    database.close()


def test_a_migration_that_fails_leaves_the_queue_as_it_was(
    old: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(db: sa.Connection, _: sa.MetaData) -> None:
        peaks.create(db)
        raise OSError("the disk is full")

    monkeypatch.setattr(migrations, "MIGRATIONS", {1: half})
    with pytest.raises(OSError, match="full"):
        Database(old)
    assert version(old) == "1"
    engine = sa.create_engine(old)
    names = sa.inspect(engine).get_table_names()
    engine.dispose()
    assert "peaks" not in names
    assert "jobs" in names


def test_a_migration_may_take_longer_than_any_other_statement(
    old: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL ends those after two seconds here; a long history needs longer."""

    def slow(db: sa.Connection, _: sa.MetaData) -> None:
        if db.dialect.name == "postgresql":
            db.exec_driver_sql("select pg_sleep(2.2)")

    steps = {n: migrations.MIGRATIONS[n] for n in range(1, SCHEMA_VERSION)}
    first = steps[1]
    monkeypatch.setattr(migrations, "MIGRATIONS", steps | {1: lambda *it: (slow(*it), first(*it))})
    Database(old, lease=3).close()
    assert version(old) == str(SCHEMA_VERSION)


def test_whole_paths_become_paths_in_the_folders(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {"cat.jpg": "/srv/archive/cat-2.jpg", "dog.jpg": None, "bad.jpg": "/a/failed/bad.jpg"}
    monkeypatch.setattr(
        migrations, "MIGRATIONS", {n: migrations.MIGRATIONS[n] for n in range(1, 5)}
    )
    monkeypatch.setattr(daemon.jobs.database, "SCHEMA_VERSION", 5)
    monkeypatch.setattr(daemon.jobs.database, "OLDEST_SCHEMA", 5)
    database = Database(old)
    with database.write() as db:
        for path, told in whole.items():
            there = {"path": f"pets/{path}"} if path == "bad.jpg" else {}
            values = {"whereabouts_path": told and told.replace("bad", "pets/bad"), **there}
            db.execute(jobs.update().where(jobs.c.path == path).values(values))
        for key, path in (("1", "/srv/inbox/pets/bad.jpg"), ("2", "/srv/inbox/x/new.jpg")):
            values = {"key": key, "digest": "d", "path": path, "after": 2, "at": 1.0}
            db.execute(submissions.insert().values(values))
    database.close()
    monkeypatch.undo()
    database = Database(old)
    with database.read() as db:
        there = db.execute(sa.select(jobs.c.whereabouts_path, jobs.c.result).order_by(jobs.c.id))
        asked = db.scalars(sa.select(submissions.c.path).order_by(submissions.c.key))
        assert there.all() == [
            ("cat-2.jpg", {"clip": "cat.mp4"}), (None, None), ("pets/bad.jpg", None),
        ]  # fmt: skip
        assert asked.all() == ["pets/bad.jpg", "new.jpg"]
    database.close()


# --- hosts of several versions


def newer(database: Database, oldest: int | None) -> None:
    """As an i2vd of version 99 leaves a queue that those from `oldest` on may work on."""
    with database.write() as db:
        db.execute(meta.update().where(meta.c.key == "schema_version").values(value="99"))
        db.execute(meta.delete().where(meta.c.key == "oldest_schema"))
        if oldest is not None:
            db.execute(meta.insert().values(key="oldest_schema", value=str(oldest)))


@pytest.mark.parametrize("oldest", [99, SCHEMA_VERSION + 1, None])
def test_a_newer_queue_that_we_cannot_work_on_is_refused(
    url: str, database: Database, oldest: int | None
) -> None:
    newer(database, oldest)
    with pytest.raises(DatabaseUnusable, match="has schema 99") as refused:
        Database(url)
    assert not refused.value.passing
    assert "has schema 99" in (database.outdated() or "")


def test_a_newer_queue_that_lets_us_work_is_left_as_it_is(url: str, database: Database) -> None:
    newer(database, SCHEMA_VERSION)
    Database(url).close()
    assert version(url) == "99"
    assert database.outdated() is None


def test_a_queue_is_not_taken_from_hosts_that_could_not_go_on(
    url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A next version that breaks with this one waits for the hosts that still run this one."""
    here = Hosts(database, "one", lease=60)
    here.begin(Facts(devices=[], takes=[], reach=None, speed=None))
    monkeypatch.setattr(migrations, "MIGRATIONS", {SCHEMA_VERSION: lambda *_: None})
    monkeypatch.setattr(daemon.jobs.database, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    monkeypatch.setattr(daemon.jobs.database, "OLDEST_SCHEMA", SCHEMA_VERSION + 1)
    with pytest.raises(DatabaseUnusable, match="still running on one") as refused:
        Database(url)
    assert refused.value.passing
    assert version(url) == str(SCHEMA_VERSION)
    here.leave()
    Database(url).close()
    assert version(url) == str(SCHEMA_VERSION + 1)


def test_every_version_leads_to_the_present_one() -> None:
    assert set(migrations.MIGRATIONS) == set(range(1, SCHEMA_VERSION))
