"""The daemon of an artificial next version: this version with more migrations.

Run like tests.chaos.launch. NEXT is "additive" or "breaking": after the migration, hosts of this
version can continue, or cannot.
"""

import os

import sqlalchemy as sa

import daemon.jobs.migrations
from daemon.jobs.migrations import Migration


def _add(db: sa.Connection) -> None:
    db.exec_driver_sql("create table colours (job bigint primary key, colour text not null)")
    db.exec_driver_sql("alter table jobs add column colour text")
    db.exec_driver_sql("alter table jobs add column shade integer not null default 0")
    db.exec_driver_sql("alter table hosts add column colour text not null default 'red'")


def _break(db: sa.Connection) -> None:
    db.exec_driver_sql("alter table events rename column detail to details")
    db.exec_driver_sql("alter table events add column detail text not null default ''")


daemon.jobs.migrations.MIGRATIONS = (*daemon.jobs.migrations.MIGRATIONS, Migration(_add))
if os.environ["NEXT"] == "breaking":
    daemon.jobs.migrations.MIGRATIONS = (
        *daemon.jobs.migrations.MIGRATIONS,
        Migration(_break, breaking=True),
    )

import tests.chaos.launch  # noqa: E402, F401 (runs the daemon, which must use these migrations)
