"""Number of hosts that one PostgreSQL can serve: `python -m tests.bench.fleet`.

First the ledger alone: three processes claim the hundred thousand jobs that wait, and finish them
as daemons do but without pictures, at each length of a history that grows to a million finished
jobs (tests.bench.claim measures one process). Then three real daemons with stand-in workers at the
end of that history: what they make in a second, and what they ask of the database when they have
nothing to do.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from daemon.jobs.database import Database
from daemon.jobs.queries import JobQueries
from daemon.jobs.store import JobStore
from pipeline.request.presets import MICRO_FAMILY
from pipeline.request.spec import Request, resolve
from tests.bench.head import head, p99
from tests.chaos.film import film
from tests.chaos.fleet import SETTINGS
from tests.postgres import Server
from tests.system.studio import Studio, picture

_FILL = """
insert into jobs (inbox, path, "drop", variant, sha256, fingerprint, source, picture_location, spec,
    preset, clip_name, rule, state, result, created, priority, required_memory)
select 'bench', lpad(n::text, 8, '0') || '.png', 1, 1, lpad(to_hex(n), 64, '0'), '1-' || n || '-1',
    '{"size": 1, "width": 96, "height": 96, "caption": ""}', 'archive', %(spec)s, 'draft', n::text,
    'rule-' || n %% 10, %(state)s,
    case when %(state)s = 'done' then '{"clip": "a.mp4", "degraded": true}'::json end, 1.0,
    n %% 3 + 10 * %(need)s, %(need)s
from generate_series(%(first)s::int, %(last)s::int) n
"""
_EVENTS = """
insert into events (job, at, event, detail)
select id, 1.0, event, '' from jobs, unnest(array['queued', 'running', 'done']) event
where state = 'done' and id > %(after)s
"""


class Bench:
    """A database with a growing history."""

    def __init__(self, server: Server) -> None:
        name = server.fresh()
        self.url = server.url(name)
        Database(self.url).close()
        self.db: psycopg.Connection[Any] = server.connect(name)
        self._rows = 0
        request = Request(prompt="camera zooming in slowly", preset="draft")
        spec = resolve(request, MICRO_FAMILY, source=(96, 96), sha256="ab" * 32,
                       rng=random.Random(0))  # fmt: skip
        self._spec = json.dumps(spec.model_dump(mode="json"))

    @property
    def finished(self) -> int:
        """Number of finished jobs."""
        return int(self.one("select count(*) from jobs where state = 'done'"))

    def grow(self, finished: int) -> None:
        """Grow the history to this number of finished jobs, with three events each."""
        after = self.one("select coalesce(max(id), 0) from jobs")
        self._add("done", finished - self.finished)
        self.db.execute(_EVENTS, {"after": after})
        self.db.execute("vacuum analyze")

    def wait(self, count: int, need: int = 1) -> None:
        """Add queued jobs up to `count` with this required memory; larger ones come first."""
        there = self.one(
            f"select count(*) from jobs where state = 'queued' and required_memory = {need}"
        )
        self._add("queued", count - there, need)
        self.db.execute("analyze jobs")

    def end_waiting(self) -> None:
        """Mark the queued jobs as finished."""
        self.db.execute("update jobs set state = 'done' where state = 'queued'")
        self.db.execute("vacuum analyze")

    def one(self, query: str) -> Any:
        """Return a single value."""
        row = self.db.execute(query).fetchone()  # type: ignore[arg-type]
        assert row is not None
        return row[0]

    def _add(self, state: str, count: int, need: int = 1) -> None:
        count = max(0, count)
        numbers = {"need": need, "first": self._rows + 1, "last": self._rows + count}
        self.db.execute(_FILL, {"spec": self._spec, "state": state, **numbers})
        self._rows += count


def work(url: str, owner: str, count: int) -> list[float]:
    """Claim and finish jobs, and return the milliseconds of each claim."""
    database, taken = Database(url), []
    store = JobStore(database)
    for _ in range(count):
        began = time.perf_counter()
        job = store.claim(owner, 30, [], ["bench"])
        taken.append((time.perf_counter() - began) * 1000)
        assert job is not None
        assert store.renew(job, 30, None) == "ok"
        assert store.begin_publication(job, {}, 30)
        assert store.done(job, {"clip": f"{job.id}.mp4", "degraded": True})
        store.moved(job, "archive", job.path)
    database.close()
    return taken


def claims(bench: Bench, count: int, hosts: int) -> list[str]:
    """Measure claims and return a row of the first table."""
    finished, began = bench.finished, time.perf_counter()
    with ProcessPoolExecutor(hosts) as pool:
        each = [pool.submit(work, bench.url, f"host{n}", count // hosts) for n in range(hosts)]
        taken = [ms for one in each for ms in one.result()]
    seconds = time.perf_counter() - began
    database = Database(bench.url)
    queries, began = JobQueries(database), time.perf_counter()
    queries.counts()
    counted = (time.perf_counter() - began) * 1000
    database.close()
    return [
        f"{finished:,}", f"{statistics.median(taken):.1f} ms", f"{p99(taken):.1f} ms",
        f"{len(taken) / seconds:.0f} /s", f"{counted:.0f} ms",
    ]  # fmt: skip


def serving_seconds(bench: Bench) -> float:
    """Return the CPU seconds of the server's client backends, without its background processes."""
    others = bench.db.execute(
        "select pid from pg_stat_activity where datname = current_database() and pid <> "
        "pg_backend_pid() and backend_type = 'client backend'"
    ).fetchall()
    ticks = 0
    for (pid,) in others:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def daemons(bench: Bench, folder: Path, options: argparse.Namespace) -> Table:
    """Measure three real daemons: pictures a second, and their idle cost."""
    share, clip = folder / "share", film(folder / "film.mp4")
    (share / "rules").mkdir(parents=True)
    hosts = []
    for number in range(options.hosts):
        host = Studio(folder / f"host{number}", program="tests.chaos.launch", PEER_FILM=str(clip))
        host.settings(SETTINGS.format(url=bench.url, share=share, lease=30).replace("0.2", "2"))
        host.inbox, host.outbox, host.rules = (share / r for r in ("inbox", "outbox", "rules"))
        hosts.append(host)
    hosts[0].rule("90-default", '[make]\nprompt = "film"\npreset = "draft"\n')
    spent = "select xact_commit from pg_stat_database where datname = current_database()"
    connected = "select count(*) from pg_stat_activity where datname = current_database()"
    table = Table("what", "", box=None)
    try:
        for host in hosts:
            host.start()
        began = time.monotonic()
        for number in range(options.pictures):
            hosts[0].drop(f"{number:05}.png", picture(number % 50) + number.to_bytes(4, "big"))
        most = 0
        done = "select count(*) from jobs where inbox = 'inbox' and state = 'done'"
        while bench.one(done) < options.pictures:
            most = max(most, bench.one(connected) - 1)
            time.sleep(0.5)
        seconds = time.monotonic() - began
        table.add_row("clips, from the drop on", f"{options.pictures / seconds:.1f} /s")
        table.add_row("connections at work, of each host", f"{most / options.hosts:.1f}")
        time.sleep(20)
        before, cpu, began = bench.one(spent), serving_seconds(bench), time.monotonic()
        time.sleep(options.idle)
        seconds = time.monotonic() - began
        transactions = (bench.one(spent) - before) / seconds / options.hosts
        busy = (serving_seconds(bench) - cpu) / seconds / options.hosts
        resting = (bench.one(connected) - 1) / options.hosts
        table.add_row("connections at rest, of each host", f"{resting:.1f}")
        table.add_row("transactions at rest, of each host", f"{transactions:.1f} /s")
        table.add_row("a core of the database, for each host at rest", f"{busy:.2%}")
    finally:
        for host in hosts:
            host.close()
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fleet")
    parser.add_argument("--hosts", type=int, default=3)
    parser.add_argument("--finished", type=int, nargs="+", default=[0, 100_000, 1_000_000])
    parser.add_argument("--waiting", type=int, default=100_000)
    parser.add_argument("--claims", type=int, default=100_000, help="at each length of the history")
    parser.add_argument("--pictures", type=int, default=300, help="for the real daemons")
    parser.add_argument("--idle", type=float, default=30, help="seconds at rest")
    options = parser.parse_args()
    console = Console(width=100)
    server = Server(safe=True)
    try:
        with tempfile.TemporaryDirectory(prefix="i2vd-fleet-") as folder:
            bench = Bench(server)
            served = f"PostgreSQL {bench.one('show server_version')}, fsync on"
            asked = f"{options.waiting:,} jobs waiting, {options.claims:,} of them made at each"
            hosts = f"{options.hosts} hosts, all on these cores"
            console.print(head(f"{served}; {hosts}; {asked} length of the history"))
            table = Table(
                "finished jobs", "claim, median", "claim, p99", "jobs", "counts", box=None
            )
            for finished in options.finished:
                bench.grow(finished)
                bench.wait(options.waiting)
                table.add_row(*claims(bench, options.claims, options.hosts))
            console.print(table)
            size = "select pg_size_pretty(pg_database_size(current_database()))"
            console.print(f"size of the database: {bench.one(size)}")
            bench.end_waiting()
            console.print(daemons(bench, Path(folder), options))
            bench.db.close()
    finally:
        server.close()


if __name__ == "__main__":
    main()
