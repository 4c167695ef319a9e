"""Queries in a queue with a long history: `python -m tests.bench.ledger`.

A SQLite file on this disk with a million finished jobs and some queued ones. Measures the queries
of /metrics and of the page; tests.bench.claim measures claims.
"""

import argparse
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from daemon.estimate.duration import queued_work
from daemon.jobs.database import Database
from daemon.jobs.queries import JobFilter, JobQueries
from daemon.jobs.schema import jobs
from pipeline.request.presets import MICRO_FAMILY
from pipeline.request.spec import Request, resolve
from tests.bench.head import head, p99

_ROWS = 20_000
"""Rows in one transaction."""


def row(
    number: int, state: str, spec: dict[str, Any], priority: int = 0, need: int = 1
) -> dict[str, Any]:
    """Return a job row with its own picture."""
    result = None if state == "queued" else {"clip": f"{number:07}.mp4"}
    return {
        "inbox": "inbox", "path": f"{number:07}.png", "drop": 1, "variant": 1,
        "sha256": f"{number:064x}", "fingerprint": f"1-{number}-1", "spec": spec,
        "source": {"size": 1, "width": 96, "height": 96, "caption": ""},
        "preset": spec["preset"], "clip_name": f"{number:07}", "rule": f"rule-{number % 10}",
        "state": state, "result": result, "created": 1.0, "priority": number % 3 + priority,
        "picture_location": "inbox" if state == "queued" else "archive", "required_memory": need,
    }  # fmt: skip


def fill(database: Database, finished: int, waiting: int, first: int = 0, **more: int) -> None:
    """Add finished jobs of all presets, then queued ones, numbered from `first`."""
    specs = []
    for preset in MICRO_FAMILY.presets:
        request = Request(prompt="camera zooming in slowly", preset=preset)
        rng = random.Random(0)
        spec = resolve(request, MICRO_FAMILY, source=(96, 96), sha256="ab" * 32, rng=rng)
        specs.append(spec.model_dump(mode="json"))
    for start in range(0, finished + waiting, _ROWS):
        numbers = range(start, min(start + _ROWS, finished + waiting))
        states = ("done" if n < finished else "queued" for n in numbers)
        rows = [
            row(first + n, state, specs[n % len(specs)], **more)
            for n, state in zip(numbers, states, strict=True)
        ]
        with database.write() as db:
            db.execute(jobs.insert(), rows)


def time_calls(query: Callable[[], object], times: int) -> list[float]:
    """Return the milliseconds of each call."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        query()
        taken.append((time.perf_counter() - began) * 1000)
    return taken


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ledger")
    parser.add_argument("--finished", type=int, default=1_000_000)
    parser.add_argument("--waiting", type=int, default=2000)
    options = parser.parse_args()
    table = Table("what", "median", "p99", box=None)
    with tempfile.TemporaryDirectory(prefix="i2vd-ledger-", dir=Path.cwd()) as folder:
        database = Database(f"sqlite:///{folder}/queue.sqlite")
        queries = JobQueries(database)
        fill(database, options.finished, options.waiting)

        def add(what: str, query: Callable[[], object]) -> None:
            taken = time_calls(query, 20)
            table.add_row(what, f"{statistics.median(taken):.1f} ms", f"{p99(taken):.1f} ms")

        add("jobs by state", queries.counts)
        add("outcomes by rule and preset", queries.outcomes)
        add("the work that waits", lambda: queued_work(queries))
        add("the newest of a preset", lambda: queries.newest(JobFilter(preset="high")))
        add("pictures still to be put away", queries.pending_archival)
        database.close()
    console = Console(width=100)
    options_text = f"--finished {options.finished} --waiting {options.waiting}"
    sqlite = f"SQLite {sqlite3.sqlite_version}"
    console.print(head(f"{sqlite}; python -m tests.bench.ledger {options_text}"))
    console.print(table)


if __name__ == "__main__":
    main()
