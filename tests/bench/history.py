"""A year of clips in an SQLite queue, kept for ever and pruned: `python -m tests.bench.history`.

Fills a file on this disk with a thousand clips a day, each with its four events, and measures size,
claims and memory. Then the same with `queue.keep_days`, also while the surplus is removed.
"""

import argparse
import asyncio
import contextlib
import resource
import sqlite3
import statistics
import tempfile
import threading
import time
from pathlib import Path

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from daemon.config.settings import Queue, Settings
from daemon.jobs.database import Database
from daemon.jobs.schema import events, jobs
from daemon.jobs.store import JobStore
from daemon.retention import Retention
from daemon.storage.folder_threads import FolderThreads
from daemon.storage.volumes import VolumeMarkers
from tests.bench.head import head, p99
from tests.bench.ledger import fill

_DAY = 86_400.0
_EVENTS = ("queued", "running", "publishing", "done")
_RESULT = {
    "clip": "2026-11/shoes/red-0000000.mp4", "sidecar_sha256": "ab" * 32, "degraded": False,
    "seconds": {"condition": 0.412, "denoise": 5.871, "decode": 0.633, "encode_video": 0.214},
    "mode": "resident", "speed": "exact", "poster": True,
}  # fmt: skip


def grow(database: Database, days: int, a_day: int, waiting: int) -> None:
    """Add a history of `days` that ends now, and queued jobs."""
    finished = days * a_day
    fill(database, finished, waiting)
    with database.write() as db:
        made = database.now - (finished - jobs.c.id) * (_DAY / a_day)
        times = {"created": made - 60, "started": made - 30, "finished": made}
        done = jobs.c.state == "done"
        db.execute(jobs.update().where(done).values(**times, result=_RESULT, owner="studio"))
        for event in _EVENTS:
            rows = sa.select(jobs.c.id, jobs.c.finished, sa.literal(event), sa.literal("rule cat"))
            columns = ["job", "at", "event", "detail"]
            db.execute(events.insert().from_select(columns, rows.where(done)))


def claims(database: Database, count: int) -> list[float]:
    """Return the milliseconds of claims, one after another; each job is given back."""
    store, taken = JobStore(database), []
    for _ in range(count):
        began = time.perf_counter()
        job = store.claim("studio", 30)
        taken.append((time.perf_counter() - began) * 1000)
        assert job is not None
        store.release(job, "")
    return taken


def claims_during(database: Database, work: threading.Thread) -> list[float]:
    """Return the milliseconds of claims, ten a second, while `work` runs."""
    work.start()
    taken = []
    while work.is_alive():
        taken += claims(database, 1)
        time.sleep(0.1)
    return taken


def megabytes(file: Path) -> str:
    """Return the size of a file."""
    return f"{file.stat().st_size / 1e6:.0f} MB"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.history")
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--a-day", type=int, default=1000)
    parser.add_argument("--keep-days", type=int, default=335)
    parser.add_argument("--claims", type=int, default=500)
    options = parser.parse_args()
    table = Table("", "jobs", "file", "claim", "p99", "longest", "memory", box=None)

    with tempfile.TemporaryDirectory(prefix="i2vd-history-", dir=Path.cwd()) as folder:
        file = Path(folder, "queue.sqlite")
        database = Database(f"sqlite:///{file}")

        def add(what: str, taken: list[float]) -> None:
            with database.read() as db:
                count = db.scalar(sa.select(sa.func.count()).select_from(jobs))
            with contextlib.closing(sqlite3.connect(file)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            figures = (statistics.median(taken), p99(taken), max(taken))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
            times = [f"{figure:.1f} ms" for figure in figures]
            table.add_row(what, f"{count:,}", megabytes(file), *times, f"{peak:.0f} MB")

        grow(database, 1, 1, 200)
        add("new", claims(database, options.claims))
        database.close()
        file.unlink()
        database = Database(f"sqlite:///{file}")
        grow(database, options.days, options.a_day, 200)
        add("kept for ever", claims(database, options.claims))
        settings = Settings(queue=Queue(keep_days=options.keep_days))
        threads = FolderThreads(settings.inbox)
        retention = Retention(settings, database, VolumeMarkers(settings, database), threads)
        began = time.perf_counter()
        work = threading.Thread(target=lambda: asyncio.run(retention.prune()))
        add(f"while it is pruned to {options.keep_days} days", claims_during(database, work))
        pruned = time.perf_counter() - began
        add("pruned", claims(database, options.claims))
        database.close()
    console = Console(width=100, highlight=False)
    command = f"python -m tests.bench.history --days {options.days} --a-day {options.a_day}"
    console.print(head(f"SQLite {sqlite3.sqlite_version}; {command}"))
    console.print(table)
    console.print(f"To prune and shrink the file took {pruned:.0f} s.")


if __name__ == "__main__":
    main()
