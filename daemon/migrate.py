"""Migrations: an older queue is brought to the present tables, as a whole or not at all.

A copy of an older SQLite file is left beside it, named after its version, before anything changes.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

import sqlalchemy as sa

from daemon.job import below


def _give_presets(db: sa.Connection, metadata: sa.MetaData) -> None:
    jobs = metadata.tables["jobs"]
    db.exec_driver_sql("alter table jobs add column preset text")
    db.execute(jobs.update().values(preset=jobs.c.spec["preset"].as_string()))
    for index in jobs.indexes:
        if index.name == "jobs_counted":
            index.create(db)


_BATCH = 10_000


def _shorten_paths(db: sa.Connection, metadata: sa.MetaData) -> None:
    """Whole paths on one host become paths in the inbox's folders, wherever a host has those."""
    jobs, last = metadata.tables["jobs"], 0
    paths = (jobs.c.path, jobs.c.whereabouts_path, jobs.c.clip_name, jobs.c.result)
    query = sa.select(jobs.c.id, *paths).order_by(jobs.c.id).limit(_BATCH)
    of_job = jobs.update().where(jobs.c.id == sa.bindparam("job"))
    while rows := db.execute(query.where(jobs.c.id > last)).all():
        last = rows[-1].id
        moved = [
            {"job": row.id, "whereabouts_path": below(row.whereabouts_path, row.path)}
            for row in rows
            if row.whereabouts_path
        ]
        made = [
            {
                "job": row.id,
                "result": row.result | {"clip": below(row.result["clip"], row.clip_name)},
            }
            for row in rows
            if row.result and "clip" in row.result
        ]
        for values in filter(None, (moved, made)):
            db.execute(of_job, values)
    submissions = metadata.tables["submissions"]
    for key, path, after in db.execute(
        sa.select(submissions.c.key, submissions.c.path, submissions.c.after)
    ).all():
        parts = PurePosixPath(path).parts
        ends = [str(PurePosixPath(*parts[number:])) for number in range(1, len(parts))]
        became = sa.select(jobs.c.path).where(jobs.c.id > after, jobs.c.path.in_(ends))
        short = db.scalar(became.order_by(jobs.c.id).limit(1)) or parts[-1]
        db.execute(submissions.update().where(submissions.c.key == key).values(path=short))


MIGRATIONS: Mapping[int, Callable[[sa.Connection, sa.MetaData], None]] = {
    1: lambda db, metadata: metadata.tables["peaks"].create(db),
    2: lambda db, metadata: metadata.tables["submissions"].create(db),
    3: _give_presets,
    4: _shorten_paths,
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
