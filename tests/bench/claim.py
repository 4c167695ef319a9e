"""Duration of a claim, and its parts: `python -m tests.bench.claim`.

A SQLite file and a PostgreSQL, each with a million finished jobs. One process claims as the
dispatcher does, for a device that fits all jobs and for one that the first jobs do not fit. For
PostgreSQL also: planning and execution time of each statement (pg_stat_statements), CPU time of
client and server and the time of WAL writes, the client's CPU time by layer of Python (cProfile),
and the server's query plan.
"""

import argparse
import cProfile
import pstats
import re
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from daemon.jobs.claim_filter import ClaimFilter
from daemon.jobs.database import Database
from daemon.jobs.store import JobStore
from tests.bench.fleet import Bench, serving_seconds
from tests.bench.head import head, p99
from tests.bench.ledger import fill
from tests.postgres import Server

_SERVER_OPTIONS = (
    "shared_preload_libraries=pg_stat_statements",
    "pg_stat_statements.track_planning=on",
    "track_wal_io_timing=on",
)
_STATEMENTS = """
select query, calls, total_plan_time, total_exec_time
from pg_stat_statements
where dbid = (select oid from pg_database where datname = current_database())
and query !~ 'pg_stat|pg_backend' order by total_plan_time + total_exec_time desc
"""
_LAYERS = ("psycopg", "sqlalchemy", "daemon")


class Claims:
    """Sequential claims; `whole` is the duration of each in milliseconds."""

    def __init__(self, database: Database, inbox: str, fit: ClaimFilter | None = None) -> None:
        self._store, self._inbox, self._fit = JobStore(database), inbox, fit
        self.whole: list[float] = []

    def make(self, count: int) -> None:
        """Make `count` claims."""
        for _ in range(count):
            began = time.perf_counter()
            assert self._store.claim("host", 30, [], [self._inbox], self._fit) is not None
            self.whole.append((time.perf_counter() - began) * 1000)


def in_sqlite(options: argparse.Namespace) -> Table:
    """Measure median and p99 in a file with a long history on this disk."""
    table = Table("in SQLite", "median", "p99", "aim", box=None)

    def add(what: str, claims: Claims, aim: str = "") -> None:
        claims.make(options.claims)
        median = statistics.median(claims.whole)
        table.add_row(what, f"{median:.1f} ms", f"{p99(claims.whole):.1f} ms", aim)

    with tempfile.TemporaryDirectory(prefix="i2vd-claim-", dir=Path.cwd()) as folder:
        database = Database(f"sqlite:///{folder}/queue.sqlite")
        first = options.finished + 2 * options.claims
        fill(database, options.finished, 2 * options.claims)
        add("a claim", Claims(database, "inbox"), "p99 under 20 ms")
        fill(database, 0, options.waiting, first, priority=3, need=2)
        small = Claims(database, "inbox", ClaimFilter(1, {"inbox": 2}))
        add(f"a claim past {options.waiting:,} that do not fit", small)
        database.close()
    return table


def measure(bench: Bench, claims: Claims, count: int) -> tuple[Table, Table]:
    """Measure claims. Return tables by statement and by component, in milliseconds."""
    claims.make(200)  # the server's caches are warm, SQLAlchemy's too
    claims.whole.clear()
    bench.db.execute("create extension if not exists pg_stat_statements")
    bench.db.execute("select pg_stat_statements_reset()")
    synced, theirs, ours = _synced(bench), serving_seconds(bench), time.process_time()
    claims.make(count)
    ours = (time.process_time() - ours) * 1000 / count
    theirs = (serving_seconds(bench) - theirs) * 1000 / count
    disk = (_synced(bench) - synced) / count
    statements = Table("statement", "for each claim", "planned", "executed", box=None)
    for query, calls, plan, run in bench.db.execute(_STATEMENTS).fetchall():
        if calls >= count / 2:
            statements.add_row(
                _short(query), f"{calls / count:.0f}", f"{plan / calls:.3f} ms",
                f"{run / calls:.3f} ms",
            )  # fmt: skip
    whole = statistics.mean(claims.whole)
    shares = Table("a claim", "mean ms", box=None)
    shares.add_row("whole", f"{whole:.2f}")
    shares.add_row("our processor time", f"{ours:.2f}")
    shares.add_row("the server's", f"{theirs:.2f}")
    shares.add_row("the log on its way to the disk", f"{disk:.2f}")
    shares.add_row("the rest: waits for each other", f"{whole - ours - theirs - disk:.2f}")
    shares.add_row("median", f"{statistics.median(claims.whole):.2f}")
    shares.add_row("p99", f"{p99(claims.whole):.2f}")
    return statements, shares


def _synced(bench: Bench) -> float:
    """Return the server's milliseconds of WAL writes; its statistics lag by a second."""
    time.sleep(1.5)
    return float(bench.one("select wal_write_time + wal_sync_time from pg_stat_wal"))


def _short(query: str) -> str:
    """Shorten a query."""
    found = re.sub(r"\s+", " ", query)
    return found if len(found) < 44 else f"{found[:40]} ..."


def layers(claims: Claims, count: int) -> str:
    """Return the share of each layer of Python, measured by cProfile."""
    profile = cProfile.Profile()
    profile.runcall(claims.make, count)
    spent = dict.fromkeys((*_LAYERS, "other"), 0.0)
    for (file, _, name), (_, _, own, _, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if "wait" not in name:
            layer = next((each for each in _LAYERS if each in f"{file} {name}"), "other")
            spent[layer] += own
    whole = sum(spent.values())
    shares = ", ".join(f"{layer} {own / whole:.0%}" for layer, own in spent.items())
    return f"our time by layer, without waiting: {shares}"


def plan(bench: Bench, claims: Claims) -> str:
    """Return the server's query plan for the next job, with buffers."""
    statements: list[tuple[str, Any]] = []

    def listen(_c: Any, _k: Any, statement: str, parameters: Any, *_: Any) -> None:
        statements.append((statement, parameters))

    sa.event.listen(sa.Engine, "before_cursor_execute", listen)
    try:
        claims.make(1)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", listen)
    (claim,) = [each for each in statements if each[0].startswith("UPDATE")]
    with bench.db.transaction(force_rollback=True):
        rows = bench.db.execute(f"explain (analyze, buffers) {claim[0]}", claim[1]).fetchall()
    return "\n".join(row[0] for row in rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.claim")
    parser.add_argument("--finished", type=int, default=1_000_000)
    parser.add_argument("--waiting", type=int, default=100_000)
    parser.add_argument("--claims", type=int, default=2000)
    options = parser.parse_args()
    console = Console(width=100, highlight=False)
    console.print(head(f"SQLite {sqlite3.sqlite_version}; python -m tests.bench.claim"))
    console.print(in_sqlite(options))
    server = Server(safe=True, more=_SERVER_OPTIONS)
    try:
        bench = Bench(server)
        bench.grow(options.finished)
        bench.wait(options.waiting)
        database = Database(bench.url)
        served = f"PostgreSQL {bench.one('show server_version')}, fsync on"
        jobs = f"{options.finished:,} finished jobs, {options.waiting:,} waiting"
        console.print(head(f"{served}, {jobs}; python -m tests.bench.claim"))
        whole, small = (
            Claims(database, "bench"),
            Claims(database, "bench", ClaimFilter(1, {"bench": 2})),
        )
        for table in measure(bench, whole, options.claims):
            console.print(table)
        console.print(layers(whole, options.claims))
        console.print(plan(bench, whole))
        bench.wait(options.waiting, need=2)
        console.print(f"\nPast {options.waiting:,} jobs that do not fit and come first:")
        for table in measure(bench, small, options.claims):
            console.print(table)
        database.close()
        bench.db.close()
    finally:
        server.close()


if __name__ == "__main__":
    main()
