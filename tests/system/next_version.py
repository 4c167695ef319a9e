"""The daemon of a next version: this one, with one more migration. Run as tests.chaos.launch is.

NEXT is "additive": the tables get more, and hosts of this version may go on; or "breaking": they
may not. No older release can be had in every clone; what must hold between two versions is held by
this version in the part of the old one.
"""

import os
from typing import Any

import sqlalchemy as sa

import daemon.jobs.migrations
import daemon.jobs.schema

_THIS = daemon.jobs.schema.SCHEMA_VERSION


def _add(db: sa.Connection, _: Any) -> None:
    db.exec_driver_sql("create table colours (job bigint primary key, colour text not null)")
    db.exec_driver_sql("alter table jobs add column colour text")
    db.exec_driver_sql("alter table jobs add column shade integer not null default 0")
    db.exec_driver_sql("alter table hosts add column colour text not null default 'red'")


def _break(db: sa.Connection, _: Any) -> None:
    db.exec_driver_sql("alter table events rename column detail to details")
    db.exec_driver_sql("alter table events add column detail text not null default ''")


daemon.jobs.migrations.MIGRATIONS = {
    **daemon.jobs.migrations.MIGRATIONS,
    _THIS: _add,
    _THIS + 1: _break,
}
if os.environ["NEXT"] == "additive":
    daemon.jobs.schema.SCHEMA_VERSION = _THIS + 1
else:
    daemon.jobs.schema.SCHEMA_VERSION = daemon.jobs.schema.OLDEST_SCHEMA = _THIS + 2

import tests.chaos.launch  # noqa: E402, F401 (it runs the daemon, which must see the change)
