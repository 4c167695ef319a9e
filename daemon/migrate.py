"""Migrations: an older queue is brought to the present tables, as a whole or not at all.

A copy of an older SQLite file is left beside it, named after its version, before anything changes.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path

import sqlalchemy as sa


def _give_presets(db: sa.Connection, metadata: sa.MetaData) -> None:
    jobs = metadata.tables["jobs"]
    db.exec_driver_sql("alter table jobs add column preset text")
    db.execute(jobs.update().values(preset=jobs.c.spec["preset"].as_string()))
    for index in jobs.indexes:
        if index.name == "jobs_counted":
            index.create(db)


MIGRATIONS: Mapping[int, Callable[[sa.Connection, sa.MetaData], None]] = {
    1: lambda db, metadata: metadata.tables["peaks"].create(db),
    2: lambda db, metadata: metadata.tables["submissions"].create(db),
    3: _give_presets,
}
"""What leads from each version to the next, within the caller's transaction."""


def migrate(db: sa.Connection, metadata: sa.MetaData, found: int) -> int:
    """From version `found` on as far as it goes; the version reached."""
    while found in MIGRATIONS:
        MIGRATIONS[found](db, metadata)
        found += 1
    return found


def keep_copy(file: Path, found: int) -> Path:
    """Copy a SQLite file whole, whatever its journal holds. Raises OSError, sqlite3.Error."""
    copy = file.with_name(f"{file.name}.v{found}")
    part = copy.with_name(f"{copy.name}.part")
    with (
        contextlib.closing(sqlite3.connect(file)) as old,
        contextlib.closing(sqlite3.connect(part)) as new,
    ):
        old.backup(new)
    part.replace(copy)
    return copy
