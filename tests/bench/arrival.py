"""Latency of discovery, queueing, claim and archiving: `python -m tests.bench.arrival`.

`--part watching`: compares the daemon with two minimal scripts, which watch a folder with watchdog
and watchfiles and only print names. The daemon does more, so its time is split: found; stable; and
inspected, hashed, matched with a rule and stored in the queue, on disk. Its only device is busy
meanwhile. Exit code 1 if a picture is not a job exactly once.

`--part jobs`: the time from the end of the settle time to the claim, while a thousand jobs that are
not due wait and the device is free. Then a job's time from the claim to the archive, without the
stages of its worker; the worker is the real one with the embedded model.
"""

import argparse
import contextlib
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from daemon.intake.scanner import scan
from daemon.jobs.database import Database
from daemon.jobs.schema import jobs
from tests.bench.daemon import resident, spent
from tests.bench.head import head, p99
from tests.bench.watchers import SCRIPTS, Script
from tests.chaos.film import film
from tests.system.studio import DRAFT, Studio, picture

SETTLE = 2.0
"""Seconds for which a picture must be unchanged: the setting's default."""

PARTS = ("watching", "jobs")
SETTINGS = '[model]\ndevices = ["cpu"]\n[[inbox]]\non_success = "{on_success}"\n'
BUSY = '[make]\nprompt = "wait"\npreset = "draft"\n'
"""Rule: the stand-in worker never finishes the clip."""


class Daemon(Studio):
    """The daemon with default settings; records its scans."""

    def __init__(
        self, root: Path, *, on_success: str = "archive", rule: str = BUSY, **environment: str
    ) -> None:
        super().__init__(
            root, program="tests.chaos.launch", CHAOS_LOOKS=f"{root}/looks", **environment
        )
        self.settings(SETTINGS.format(on_success=on_success))
        self.rule("90-default", rule)

    def found(self, count: int) -> float | None:
        """Return the monotonic time of the first scan with at least `count` pictures."""
        for line in (self.root / "looks").read_text(encoding="utf-8").splitlines():
            when, found = line.split()
            if int(found) >= count:
                return float(when)
        return None

    def last_job(self) -> int:
        """Return the highest job number in the queue's file."""
        ((number,),) = self._ask("select coalesce(max(id), 0) from jobs")
        return int(number)

    def queued(self) -> list[str]:
        """Return the paths of all jobs."""
        return [path for (path,) in self._ask("select path from jobs")]

    def claimed(self) -> dict[str, float]:
        """Return the time of each picture's first claim, by path, in seconds since 1970."""
        query = (
            "select path, min(at) from events join jobs on jobs.id = job where event = 'running'"
        )
        return dict(self._ask(f"{query} group by path"))

    def enter(self, rows: Iterable[dict[str, Any]], **common: Any) -> None:
        """Add jobs to the queue."""
        common |= {"inbox": "inbox", "drop": 1, "variant": 1, "sha256": "", "source": {}}
        common |= {"clip_name": "old", "created": 0.0}
        database = Database(f"sqlite:///{self.root}/.i2vd/queue.sqlite")
        with database.write() as db:
            db.execute(jobs.insert(), [common | row for row in rows])
        database.close()

    def _ask(self, query: str) -> list[tuple[Any, ...]]:
        file = f"file:{self.root}/.i2vd/queue.sqlite?mode=ro"
        with contextlib.closing(sqlite3.connect(file, uri=True)) as queue:
            return queue.execute(query).fetchall()

    def spent(self) -> float:
        """Return the CPU seconds of the daemon and its children."""
        return sum(map(spent, self.processes()))


def pictures(folder: Path, count: int) -> list[Path]:
    """Create `count` different small pictures."""
    folder.mkdir()
    made = [folder / f"new-{number:05}.png" for number in range(count)]
    for number, path in enumerate(made):
        path.write_bytes(picture(number) + number.to_bytes(4, "big"))
    return made


def drop(files: list[Path], inbox: Path) -> float:
    """Link all files into the inbox and return the start time."""
    began = time.monotonic()
    for file in files:
        os.link(file, inbox / file.name)
    return began


def burst_on_daemon(root: Path, files: list[Path]) -> tuple[dict[str, float], list[str]]:
    """Return the seconds until all are found and queued, and names that are not one job."""
    studio = Daemon(root, PEER_FILM="none")
    try:
        studio.start()
        busy = studio.drop("busy.png", picture(9))
        studio.until_state("busy.png", "running")
        before = studio.spent()
        began = drop(files, studio.inbox)
        studio.until(lambda: studio.last_job() > 1, "the first is a job")
        first = time.monotonic() - began
        studio.until(lambda: studio.last_job() > len(files), "all are jobs", len(files) / 10 + 60)
        seconds = time.monotonic() - began
        found = studio.found(len(files) + 1)
        assert found
        time.sleep(SETTLE + 1)
        jobs_of = Counter(studio.queued())
        dropped = [busy.name, *(file.name for file in files)]
        wrong = [name for name in dropped if jobs_of[name] != 1]
        wrong += sorted(jobs_of.keys() - set(dropped))
        times = {
            "found": found - began,
            "queued": seconds,
            "rate": len(files) / (seconds - first),
            "spent": studio.spent() - before,
        }
        return times, wrong
    finally:
        studio.close()


def burst_on_script(script: Script, files: list[Path]) -> dict[str, float]:
    """Return the seconds until the script has printed the last name."""
    with script:
        before = spent(script.pid)
        began = drop(files, script.folder)
        last = script.output.until({file.name for file in files})
        return {"found": last - began, "spent": spent(script.pid) - before}


def old_files(folder: Path, count: int) -> None:
    """Create `count` files, a thousand in each subfolder."""
    for number in range(count):
        place = folder / f"{number // 1000:03}"
        if number % 1000 == 0:
            place.mkdir(parents=True)
        (place / f"old-{number:06}.png").touch()


def enter_as_kept(studio: Daemon) -> None:
    """Add a finished job for each picture in the inbox."""
    seen = scan(studio.inbox, recursive=True).pictures
    rows = ({"path": path, "fingerprint": each.fingerprint} for path, each in seen.items())
    studio.enter(rows, picture_location="kept", state="done")


def among_old(root: Path, count: int, where: str, idle: float, tries: int) -> dict[str, list[str]]:
    """Measure CPU share, memory and one new file beside old files in "archive" or "inbox"."""
    studio = Daemon(root, on_success="keep" if where == "inbox" else "archive", PEER_FILM="none")
    scripts = [Script(program, studio.inbox) for program in SCRIPTS]
    try:
        studio.start().stop()
        old_files(studio.inbox if where == "inbox" else studio.archive, count)
        if where == "inbox":
            enter_as_kept(studio)
        studio.start()
        for script in scripts:
            script.start()
        before_it = studio.last_job()
        studio.drop("busy.png", picture(1))
        studio.until(lambda: studio.last_job() > before_it, "it is queued")
        time.sleep(10)  # until the work of the start is done
        pids = [studio.pid, *(script.pid for script in scripts)]
        before = [spent(pid) for pid in pids]
        time.sleep(idle)
        shares = [(spent(pid) - was) / idle for pid, was in zip(pids, before, strict=True)]
        *found, queued = zip(*(one_drop(studio, scripts, n) for n in range(tries)), strict=True)
        return {
            "share of a core, idle": [f"{share:.1%}" for share in shares],
            "memory": [f"{resident(pid):.0f} MB" for pid in pids],
            "until one new file is found": [summary(each) for each in found],
            f"until it is a job, of that {SETTLE:g} s of standing still": [summary(queued)],
        }
    finally:
        for script in scripts:
            script.stop()
        studio.close()


def one_drop(studio: Daemon, scripts: list[Script], number: int) -> list[float]:
    """Return the seconds until a picture is found by daemon and scripts, and queued."""
    looks = (studio.root / "looks").read_text(encoding="utf-8").splitlines()
    present, jobs_before = int(looks[-1].split()[1]), studio.last_job()
    file = studio.root / f"drop-{number}.png"
    file.write_bytes(picture(number))
    began = drop([file], studio.inbox)
    studio.until(lambda: studio.last_job() > jobs_before, "it is a job")
    queued = time.monotonic() - began
    ours = studio.until(lambda: studio.found(present + 1), "it is found")
    printed = [script.output.until({file.name}) for script in scripts]
    return [ours - began, *(when - began for when in printed), queued]


def until_claimed(root: Path, waiting: int, drops: int) -> list[float]:
    """Return the seconds from the end of the settle time to the claim, for each picture."""
    clip = str(film(root / "film.mp4"))
    rule = DRAFT.replace("camera zooming in slowly", "film")
    studio = Daemon(root / "claims", rule=rule, PEER_FILM=clip)
    tomorrow = time.time() + 86400
    later = {"not_before": tomorrow, "attempt": 1, "failures": 1}  # failed, tried tomorrow
    try:
        studio.start().stop()
        rows = ({"path": f"old-{number}.png"} for number in range(waiting))
        studio.enter(rows, picture_location="inbox", state="queued", fingerprint="", **later)
        _make_one(studio.start())
        whole = {}
        for number in range(drops):
            name = f"new-{number}.png"
            studio.drop(name, picture(number) + number.to_bytes(4, "big"))
            whole[name] = time.time()
            time.sleep(0.5)  # longer than the stand-in takes
        studio.until_settled(name, "done")
        claimed = studio.claimed()
        return [claimed[name] - whole[name] - SETTLE for name in whole]
    finally:
        studio.close()


def beside_the_worker(root: Path, clips: int) -> list[float]:
    """Return each job's seconds from claim to archive, without the worker's stages."""
    studio = Daemon(root / "jobs", rule=DRAFT)
    try:
        _make_one(studio.start())
        beside = []
        for number in range(clips):
            name = f"new-{number}.png"
            studio.drop(name, picture(number) + number.to_bytes(4, "big"))
            studio.until((studio.archive / name).exists, "it is archived")
            stages = studio.sidecar(f"new-{number}.mp4")["seconds"]
            ended = (studio.archive / name).lstat().st_ctime  # when it was moved there
            beside.append(ended - studio.claimed()[name] - sum(stages.values()))
        return beside
    finally:
        studio.close()


def _make_one(studio: Daemon) -> None:
    """Make a clip that is not measured, to load the worker."""
    studio.drop("warm.png", picture(1))
    studio.until_settled("warm.png", "done")


def summary(seconds: tuple[float, ...]) -> str:
    """Format the median and all values."""
    each = ", ".join(f"{value:.1f}" for value in seconds)
    return f"{statistics.median(seconds):.2f} s ({each})"


def main() -> int:
    """Measure, print and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.arrival")
    parser.add_argument("--part", choices=PARTS, action="append", help="default: both")
    parser.add_argument("--files", type=int, default=10_000, help="new ones, all at once")
    parser.add_argument("--old", type=int, default=100_000, help="files that lie there already")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--idle", type=float, default=60.0, help="seconds of doing nothing")
    parser.add_argument("--waiting", type=int, default=1000, help="jobs that are not due")
    parser.add_argument("--drops", type=int, default=200)
    parser.add_argument("--clips", type=int, default=20)
    options = parser.parse_args()
    console, wrong = Console(width=120), list[str]()
    console.print(head("python -m tests.bench.arrival"))
    with tempfile.TemporaryDirectory(prefix="i2vd-arrival-") as folder:
        root = Path(folder)
        if "watching" in (options.part or PARTS):
            table, wrong = watching(root, options)
            console.print(table)
        if "jobs" in (options.part or PARTS):
            console.print(one_by_one(root, options))
    for name in wrong[:20]:
        sys.stderr.write(f"{name}: not a job exactly once\n")
    return 1 if wrong else 0


def watching(root: Path, options: argparse.Namespace) -> tuple[Table, list[str]]:
    """Compare with the scripts. Return the table and the names that are not one job."""
    table = Table("what", "i2vd", *SCRIPTS, box=None)
    wrong = _bursts(root, options, table)
    for where in ("archive", "inbox"):
        rows = among_old(root / where, options.old, where, options.idle, options.runs)
        table.add_section()
        table.add_row(f"{options.old} old files in the {where}")
        for what, cells in rows.items():
            table.add_row(what, *cells)
    return table, wrong


def one_by_one(root: Path, options: argparse.Namespace) -> Table:
    """Measure the time from a complete picture to its claim, and on to the archive."""
    table = Table("what", "median", "p99", "most", "aim", box=None)

    def add(what: str, seconds: list[float], aim: str) -> None:
        figures = (statistics.median(seconds), p99(seconds), max(seconds))
        table.add_row(what, *(f"{1000 * each:.0f} ms" for each in figures), aim)

    soon = until_claimed(root, options.waiting, options.drops)
    what = f"whole to claimed, beyond {SETTLE:g} s, {options.waiting} waiting"
    add(what, soon, "p99 under 100 ms")
    beside = beside_the_worker(root, options.clips)
    add("claimed to archived, beside the worker", beside, "under 150 ms")
    return table


def _bursts(root: Path, options: argparse.Namespace, table: Table) -> list[str]:
    files = pictures(root / "new", options.files)
    ours: list[dict[str, float]] = []
    theirs: dict[str, list[dict[str, float]]] = {program: [] for program in SCRIPTS}
    wrong: list[str] = []
    for number in range(options.runs):
        times, complaints = burst_on_daemon(root / f"burst-{number}", files)
        ours.append(times)
        wrong += complaints
        for program, runs in theirs.items():
            folder = root / f"{program}-{number}"
            folder.mkdir()
            runs.append(burst_on_script(Script(program, folder), files))
    table.add_row(f"{options.files} new files at once, {options.runs} runs")
    columns = [ours, *theirs.values()]

    def row(what: str, key: str, form: Callable[[tuple[float, ...]], str] = summary) -> None:
        cells = [form(tuple(run[key] for run in runs)) for runs in columns if key in runs[0]]
        table.add_row(what, *cells)

    row("until the last is found", "found")
    row(f"until the last is a job, of that {SETTLE:g} s of standing still", "queued")
    row("jobs a second", "rate", lambda rates: f"{statistics.median(rates):.0f}")
    row("processor time for it all", "spent")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
