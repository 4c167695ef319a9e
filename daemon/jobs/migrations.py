"""Schema migrations: bring an older queue to the tables of schema.py, completely or not at all.

A change of schema.py adds a Migration here. The first start of the new version applies all that
are missing in one transaction, after a copy of an SQLite file was made.

A fleet is upgraded host by host, so hosts of two versions may share a queue. The queue stores the
version of its tables and the oldest version that can still use them.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from daemon.jobs.backup import BackupFailed, copy_database
from daemon.jobs.schema import hosts, meta, metadata
from pipeline.durable import fsync_dir

_VERSION = "schema_version"
_OLDEST = "oldest_schema"


class Migration(NamedTuple):
    """A step from one version of the tables to the next."""

    apply: Callable[[sa.Connection], None]
    """Runs SQL within the caller's transaction. It never reads schema.py, which changes later."""
    breaking: bool = False
    """True if an i2vd of an earlier version cannot use the changed tables."""


MIGRATIONS: Sequence[Migration] = ()
"""Steps in order: the first one leads from version 1 to 2. A released step is never changed."""


def latest_version() -> int:
    """Return the version of the tables in schema.py."""
    return 1 + len(MIGRATIONS)


def oldest_compatible_version() -> int:
    """Return the oldest version whose i2vd can use the tables in schema.py."""
    breaking = (number for number, step in enumerate(MIGRATIONS, start=2) if step.breaking)
    return max(breaking, default=1)


class UnreadableVersion(Exception):
    """The queue's version is not a number."""


class Incompatibility(NamedTuple):
    """A reason why this i2vd cannot use a queue; `temporary` if it may end by itself."""

    reason: str
    temporary: bool = False


def stored_version(db: sa.Connection) -> int | None:
    """Read the version of a queue's tables; None in an empty database."""
    return _read(db, _VERSION) if sa.inspect(db).has_table(meta.name) else None


def incompatibility(db: sa.Connection) -> Incompatibility | None:
    """Return why this i2vd cannot use a queue of a newer version; None if it can."""
    stored, known = _read(db, _VERSION) or 0, latest_version()
    if (_read(db, _OLDEST) or stored) <= known:
        return None
    return Incompatibility(
        f"has schema {stored}, this i2vd knows {known}: install the i2vd that wrote it, or a newer "
        f"one"
    )


def migrate(
    db: sa.Connection, now: sa.ColumnElement[float], file: Path | None
) -> Incompatibility | None:
    """Create the tables, or bring them to the latest version, within the caller's transaction.

    An older SQLite `file` is copied first; the transaction keeps other writers away meanwhile.
    After an Incompatibility nothing has changed.
    """
    stored = stored_version(db)
    if stored is None:
        metadata.create_all(db)
    elif stored >= latest_version():
        return incompatibility(db)
    elif outdated := _outdated_hosts(db, now):
        return Incompatibility(
            f"has schema {stored} and is still in use by an older i2vd on {', '.join(outdated)}, "
            f"which cannot use schema {latest_version()}: stop it there, this i2vd waits",
            temporary=True,
        )
    elif file and (problem := _back_up(file, stored)):
        return problem
    else:
        for step in MIGRATIONS[stored - 1 :]:
            step.apply(db)
    _store(db, _VERSION, latest_version())
    _store(db, _OLDEST, oldest_compatible_version())
    return None


def _outdated_hosts(db: sa.Connection, now: sa.ColumnElement[float]) -> list[str]:
    """Return the owners of live hosts that cannot use the latest tables."""
    outdated = (hosts.c.schema < oldest_compatible_version()) & (hosts.c.lease > now)
    return [*db.scalars(sa.select(hosts.c.owner).where(outdated).order_by(hosts.c.owner))]


def _read(db: sa.Connection, key: str) -> int | None:
    value = db.scalar(sa.select(meta.c.value).where(meta.c.key == key))
    if value is not None and not value.isdecimal():
        raise UnreadableVersion(
            f"has no readable version ({key} is {value[:20]!r}): restore a copy"
        )
    return None if value is None else int(value)


def _store(db: sa.Connection, key: str, version: int) -> None:
    db.execute(meta.delete().where(meta.c.key == key))
    db.execute(meta.insert().values(key=key, value=str(version)))


def _back_up(file: Path, version: int) -> Incompatibility | None:
    """Copy an SQLite file, with its write-ahead log, to a name that ends with its version."""
    copy = file.with_name(f"{file.name}.v{version}")
    part = copy.with_name(f"{copy.name}.part")
    try:
        copy_database(file, part)
        part.replace(copy)
        fsync_dir(copy.parent)
    except (OSError, BackupFailed) as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        return Incompatibility(
            f"has schema {version} and is not migrated, because it cannot be copied to {copy}: "
            f"{error}",
            temporary=True,
        )
    return None
