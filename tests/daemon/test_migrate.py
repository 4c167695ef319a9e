"""Migrations: an older queue is carried over whole, or left as it was; a copy of it stays."""

import pytest
import sqlalchemy as sa

from daemon import migrate
from daemon.database import SCHEMA_VERSION, Database, events, jobs, meta, peaks, submissions


@pytest.fixture
def old(url: str) -> str:
    """A queue as version 1 left it, with a job in it."""
    engine = sa.create_engine(url)
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
    return url


def version(url: str) -> str:
    engine = sa.create_engine(url)
    with engine.connect() as db:
        found = db.scalar(sa.select(meta.c.value).where(meta.c.key == "schema_version"))
    engine.dispose()
    return str(found)


def tables(url: str) -> list[str]:
    engine = sa.create_engine(url)
    found = sa.inspect(engine).get_table_names()
    engine.dispose()
    return found


def test_an_older_queue_is_carried_over_and_kept(old: str) -> None:
    database = Database(old)
    with database.read() as db:
        assert db.scalars(sa.select(jobs.c.path)).all() == ["cat.jpg"]
        assert db.execute(sa.select(peaks)).all() == []
        assert db.execute(sa.select(submissions)).all() == []
    database.close()
    assert version(old) == str(SCHEMA_VERSION)
    if old.startswith("sqlite"):  # in PostgreSQL the administrator keeps copies
        assert version(f"{old}.v1") == "1"
    Database(old).close()


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
    assert "peaks" not in tables(old)
    assert "jobs" in tables(old)


def test_every_version_leads_to_the_present_one() -> None:
    assert set(migrate.MIGRATIONS) == set(range(1, SCHEMA_VERSION))
