"""Migrations: an older queue is carried over whole, or left as it was; a copy of it stays."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from daemon import migrate
from daemon.database import SCHEMA_VERSION, Database, jobs, meta, peaks
from daemon.history import History, Shape, Wanted

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


def test_a_migration_that_fails_leaves_the_queue_as_it_was(
    old: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(db: sa.Connection, _: sa.MetaData) -> None:
        peaks.create(db)
        raise OSError("the disk is full")

    monkeypatch.setattr(migrate, "MIGRATIONS", {1: half})
    with pytest.raises(OSError, match="full"):
        Database(old)
    assert version(old) == "1"
    engine = sa.create_engine(old)
    names = sa.inspect(engine).get_table_names()
    engine.dispose()
    assert "peaks" not in names
    assert "jobs" in names


def test_every_version_leads_to_the_present_one() -> None:
    assert set(migrate.MIGRATIONS) == set(range(1, SCHEMA_VERSION))
