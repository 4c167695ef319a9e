"""Migrations: an older queue is carried over whole, or left as it was; a copy of it stays."""

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from daemon import migrate
from daemon.database import SCHEMA_VERSION, Database, events, jobs, meta, peaks, submissions


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A queue as version 1 left it, with a job in it."""
    file = tmp_path / "queue.sqlite"
    engine = sa.create_engine(f"sqlite:///{file}")
    with engine.begin() as db:
        jobs.metadata.create_all(db, tables=[jobs, events, meta])
        db.execute(meta.insert().values(key="schema_version", value="1"))
        db.execute(
            jobs.insert().values(
                inbox="inbox", path="cat.jpg", drop=1, variant=0, sha256="aa", fingerprint="1",
                source={}, clip_name="cat", state="queued", created=1.0,
            )
        )  # fmt: skip
    engine.dispose()
    return file


def version(file: Path) -> str:
    with sqlite3.connect(file) as raw:
        (found,) = raw.execute("select value from meta where key = 'schema_version'").fetchone()
    raw.close()
    return str(found)


def test_an_older_queue_is_carried_over_and_kept(old: Path) -> None:
    database = Database(f"sqlite:///{old}")
    with database.read() as db:
        assert db.scalars(sa.select(jobs.c.path)).all() == ["cat.jpg"]
        assert db.execute(sa.select(peaks)).all() == []
        assert db.execute(sa.select(submissions)).all() == []
    database.close()
    assert version(old) == str(SCHEMA_VERSION)
    assert version(old.with_name("queue.sqlite.v1")) == "1"
    Database(f"sqlite:///{old}").close()


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
