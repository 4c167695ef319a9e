"""Migrations: an older queue is brought to the present tables, as a whole or not at all.

A copy of an older SQLite file is left beside it, named after its version, before anything changes.
The queue remembers the oldest version whose i2vd may work on it, so that hosts of two versions can
share it while one after another is upgraded.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import sqlalchemy as sa

from daemon.jobs.job import below

_VERSION = "schema_version"
_OLDEST = "oldest_schema"


def _give_presets(db: sa.Connection, metadata: sa.MetaData) -> None:
    jobs = metadata.tables["jobs"]
    db.exec_driver_sql("alter table jobs add column preset text")
    db.execute(jobs.update().values(preset=jobs.c.spec["preset"].as_string()))
    _index(db, jobs, "jobs_counted")


def _know_hosts(db: sa.Connection, metadata: sa.MetaData) -> None:
    metadata.tables["hosts"].create(db)
    db.exec_driver_sql("alter table jobs add column need bigint")


def _index(db: sa.Connection, table: sa.Table, name: str) -> None:
    db.exec_driver_sql(f"drop index if exists {name}")
    for index in table.indexes:
        if index.name == name:  # one for each dialect, perhaps: ours is made
            index.create(db)


_BATCH = 10_000
"""Rows that are read and written at once."""


def _shorten_paths(db: sa.Connection, metadata: sa.MetaData) -> None:
    """Whole paths on one host become paths in the inbox's folders, wherever a host has those."""
    jobs, last = metadata.tables["jobs"], 0
    paths = (jobs.c.path, jobs.c.whereabouts_path, jobs.c.clip_name, jobs.c.result)
    query = sa.select(jobs.c.id, *paths).order_by(jobs.c.id).limit(_BATCH)
    short = sa.Table(  # all rows of a batch at once: one by one a million would take half an hour
        "short_paths",
        sa.MetaData(),
        sa.Column("job", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("whereabouts_path", sa.Text),
        sa.Column("result", sa.JSON(none_as_null=True)),
        prefixes=["temporary"],
    )
    short.create(db)
    shorten = jobs.update().where(jobs.c.id == short.c.job)
    shorten = shorten.values(whereabouts_path=short.c.whereabouts_path, result=short.c.result)
    while rows := db.execute(query.where(jobs.c.id > last)).all():
        last = rows[-1].id
        db.execute(short.insert(), [_shortened(row) for row in rows])
        db.execute(shorten)
        db.execute(short.delete())
    short.drop(db)
    submissions = metadata.tables["submissions"]
    for key, path, after in db.execute(
        sa.select(submissions.c.key, submissions.c.path, submissions.c.after)
    ).all():
        parts = PurePosixPath(path).parts
        ends = [str(PurePosixPath(*parts[number:])) for number in range(1, len(parts))]
        became = sa.select(jobs.c.path).where(jobs.c.id > after, jobs.c.path.in_(ends))
        told = db.scalar(became.order_by(jobs.c.id).limit(1)) or parts[-1]
        db.execute(submissions.update().where(submissions.c.key == key).values(path=told))


def _shortened(row: Any) -> dict[str, Any]:
    told, result = row.whereabouts_path, row.result
    if result and "clip" in result:
        result = result | {"clip": below(result["clip"], row.clip_name)}
    return {"job": row.id, "whereabouts_path": told and below(told, row.path), "result": result}


def _find_the_next_by_need(db: sa.Connection, metadata: sa.MetaData) -> None:
    db.exec_driver_sql("drop index if exists jobs_queued")
    for name in ("jobs_next", "jobs_next_of_need"):
        _index(db, metadata.tables["jobs"], name)


MIGRATIONS: Mapping[int, Callable[[sa.Connection, sa.MetaData], None]] = {
    1: lambda db, metadata: metadata.tables["peaks"].create(db),
    2: lambda db, metadata: metadata.tables["submissions"].create(db),
    3: _give_presets,
    4: _know_hosts,
    5: _shorten_paths,
    6: _find_the_next_by_need,
    7: lambda db, metadata: _index(db, metadata.tables["jobs"], "jobs_next_of_need"),
    8: lambda db, metadata: _index(db, metadata.tables["jobs"], "jobs_unsettled"),
}
"""What leads from each version to the next, within the caller's transaction."""


class Refusal(NamedTuple):
    """Why an i2vd may not work on a queue; `passing` when that may be over in a while."""

    text: str
    passing: bool = False


def version(db: sa.Connection) -> int | None:
    """The version of a queue's tables; None in an empty database."""
    return _number(db, _VERSION) if sa.inspect(db).has_table("meta") else None


def refusal(db: sa.Connection, known: int) -> Refusal | None:
    """Why an i2vd that knows the tables up to version `known` may not work on a newer queue."""
    found = _number(db, _VERSION) or 0
    oldest = _number(db, _OLDEST) or found
    if oldest <= known:
        return None
    return Refusal(
        f"has schema {found}, this i2vd knows {known}: install the i2vd that wrote it, or a newer "
        f"one"
    )


def bring_up(
    db: sa.Connection,
    metadata: sa.MetaData,
    to: int,
    oldest: int,
    now: sa.ColumnElement[float],
) -> Refusal | None:
    """Make the tables, or bring them to version `to`; nothing is to be kept after a Refusal.

    `oldest`: the oldest version whose i2vd may go on working on them.
    """
    found = version(db)
    if found is None:
        metadata.create_all(db)
    elif found >= to:
        return refusal(db, to)
    else:
        if late := _at_work(db, metadata, oldest, now):
            return Refusal(
                f"has schema {found}, and an i2vd that can work with no other is still running on "
                f"{', '.join(late)}: stop it, this one waits",
                passing=True,
            )
        while found in MIGRATIONS and found < to:
            MIGRATIONS[found](db, metadata)
            found += 1
        if found < to:
            return Refusal(f"has schema {found}, which this i2vd does not know any more")
    meta = metadata.tables["meta"]
    db.execute(meta.delete().where(meta.c.key.in_([_VERSION, _OLDEST])))
    rows = [{"key": _VERSION, "value": str(to)}, {"key": _OLDEST, "value": str(oldest)}]
    db.execute(meta.insert(), rows)
    return None


def _at_work(
    db: sa.Connection, metadata: sa.MetaData, oldest: int, now: sa.ColumnElement[float]
) -> list[str]:
    """The living hosts whose i2vd is older than that."""
    hosts = metadata.tables["hosts"]
    if not sa.inspect(db).has_table(hosts.name):
        return []
    late = (hosts.c.schema < oldest) & (hosts.c.lease > now)
    return [*db.scalars(sa.select(hosts.c.owner).where(late).order_by(hosts.c.owner))]


def _number(db: sa.Connection, key: str) -> int | None:
    found = db.scalar(sa.text("select value from meta where key = :key"), {"key": key})
    return None if found is None else int(found)


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
