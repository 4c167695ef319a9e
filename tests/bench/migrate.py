"""How long an upgrade of a long history takes: `python -m tests.bench.migrate`.

A queue as version 1 left it, with a million finished jobs and three events each, is opened by this
version, on SQLite and on PostgreSQL; the seconds of each migration.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

import daemon.jobs.migrations
from daemon.jobs.database import Database
from tests.bench.head import head
from tests.postgres import Server

OLD = Path(__file__).parents[1] / "daemon" / "queue_v1.sql"
_ROWS = 20_000
"""Rows in one statement."""

_JOBS = """
with recursive n(n) as (select {first} union all select n + 1 from n where n < {last})
insert into jobs (id, inbox, path, "drop", variant, sha256, fingerprint, source, whereabouts,
    whereabouts_path, spec, clip_name, rule, state, result, created, finished)
select n + 10, inbox, n || '.jpg', 1, 1, 'sha' || n, '1-' || n || '-1', source, 'archive',
    '/srv/i2vd/archive/' || n || '.jpg', spec, cast(n as text), rule, 'done', {result}, 1.0, 2.0
from n, (select * from jobs where path = 'cat.jpg') old
"""
_EVENTS = """
insert into events (id, job, at, event, detail)
select 10 + row_number() over (), id, 1.0, event, ''
from jobs, (select 'queued' event union all select 'running' union all select 'done') each
where path not in ('cat.jpg', 'dog.jpg', 'bad.jpg')
"""


def fill(engine: sa.Engine, finished: int) -> None:
    """Version 1's tables, with so many finished jobs."""
    for statement in OLD.read_text(encoding="utf-8").split(";\n"):
        if statement.strip():
            with engine.begin() as db:
                db.execute(sa.text(statement.replace(":", "\\:")))
    word = "'{\"clip\": \"/srv/i2vd/outbox/' || n || '.mp4\"}'"
    result = f"cast({word} as json)" if engine.dialect.name == "postgresql" else word
    for first in range(1, finished, _ROWS):
        last = min(first + _ROWS - 1, finished)
        with engine.begin() as db:
            text = _JOBS.format(first=first, last=last, result=result)
            db.exec_driver_sql(text)
    with engine.begin() as db:
        db.exec_driver_sql(_EVENTS)


def timed(number: int, step: Callable[..., None], taken: dict[int, float]) -> Callable[..., None]:
    """The migration, whose seconds are kept."""

    def run(db: sa.Connection, metadata: sa.MetaData) -> None:
        began = time.perf_counter()
        step(db, metadata)
        taken[number] = time.perf_counter() - began

    return run


def upgrade(url: str, finished: int) -> dict[str, float]:
    """Seconds of each migration, and of the whole start."""
    engine = sa.create_engine(url)
    fill(engine, finished)
    engine.dispose()
    taken: dict[int, float] = {}
    steps = daemon.jobs.migrations.MIGRATIONS
    daemon.jobs.migrations.MIGRATIONS = {n: timed(n, step, taken) for n, step in steps.items()}
    began = time.perf_counter()
    Database(url).close()
    whole = time.perf_counter() - began
    daemon.jobs.migrations.MIGRATIONS = steps
    told = {f"from schema {n} to {n + 1}": seconds for n, seconds in taken.items()}
    return told | {"all, with the copy of a file and the commit": whole}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.migrate")
    parser.add_argument("--finished", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="i2vd-migrate-", dir=Path.cwd()) as folder:
        lite = upgrade(f"sqlite:///{folder}/queue.sqlite", options.finished)
    server = Server(safe=True)
    try:
        served = upgrade(server.url(server.fresh()), options.finished)
    finally:
        server.close()
    table = Table("seconds", "SQLite", "PostgreSQL", box=None)
    for what, seconds in lite.items():
        table.add_row(what, f"{seconds:.1f}", f"{served[what]:.1f}")
    console = Console(width=100)
    console.print(head(f"{options.finished:,} finished jobs"))
    console.print(table)


if __name__ == "__main__":
    main()
