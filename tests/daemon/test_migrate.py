"""Migrations: an older queue is carried over whole, or left as it was; a copy of it stays."""

import contextlib
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from daemon import migrate
from daemon.database import SCHEMA_VERSION, Database, jobs, peaks
from daemon.history import History, Wanted

OLD = Path(__file__).with_name("queue_v1.sql")
"""A queue as version 1 left it: one job done, one that waits, one picture that was put aside."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    file = tmp_path / "queue.sqlite"
    with contextlib.closing(sqlite3.connect(file)) as raw:
        raw.executescript(OLD.read_text(encoding="utf-8"))
    return file


def tables(file: Path) -> dict[str, list[str]]:
    """The columns of each table, and the names of all indexes."""
    database = Database(f"sqlite:///{file}")
    with database.read() as db:
        there = sa.inspect(db)
        found = {
            each: sorted(c["name"] for c in there.get_columns(each))
            for each in there.get_table_names()
        }
        found["indexes"] = sorted(str(i["name"]) for each in found for i in there.get_indexes(each))
    database.close()
    return found


def version(file: Path) -> str:
    with sqlite3.connect(file) as raw:
        (found,) = raw.execute("select value from meta where key = 'schema_version'").fetchone()
    raw.close()
    return str(found)


def test_an_older_queue_is_carried_over_and_kept(old: Path) -> None:
    database = Database(f"sqlite:///{old}")
    with database.read() as db:
        there = db.execute(sa.select(jobs.c.path, jobs.c.preset).order_by(jobs.c.id)).all()
        assert there == [("cat.jpg", "draft"), ("dog.jpg", "high"), ("bad.jpg", None)]
    history = History(database)
    assert history.outcomes() == [("done", "90-default", "draft", 1), ("failed", "", "", 1)]
    assert [job.path for job in history.newest(Wanted(preset="high"))] == ["dog.jpg"]
    database.close()
    assert version(old) == str(SCHEMA_VERSION)
    assert version(old.with_name("queue.sqlite.v1")) == "1"
    Database(f"sqlite:///{old}").close()


def test_an_older_queue_gets_the_tables_of_a_new_one(old: Path, tmp_path: Path) -> None:
    assert tables(old) == tables(tmp_path / "new.sqlite")


def test_a_migration_that_fails_leaves_the_queue_as_it_was(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(db: sa.Connection, _: sa.MetaData) -> None:
        peaks.create(db)
        raise OSError("the disk is full")

    monkeypatch.setattr(migrate, "MIGRATIONS", {1: half})
    with pytest.raises(OSError, match="full"):
        Database(f"sqlite:///{old}")
    assert version(old) == "1"
    with sqlite3.connect(old) as raw:
        names = {name for (name,) in raw.execute("select name from sqlite_master")}
    raw.close()
    assert "peaks" not in names
    assert "jobs" in names


def test_every_version_leads_to_the_present_one() -> None:
    assert set(migrate.MIGRATIONS) == set(range(1, SCHEMA_VERSION))
