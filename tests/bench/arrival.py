"""How soon pictures are found and queued, and what watching costs: `python -m tests.bench.arrival`.

The daemon beside the two smallest scripts that watch a folder, with watchdog and with watchfiles,
which print a name and do no more. The daemon does more, so its time is told in parts: found;
stood still; and looked into to the end, hashed, given a rule, and a row in the ledger, on disk.
Its one device is busy meanwhile. Exit code 1 when a picture is not a job exactly once.
"""

import argparse
import contextlib
import os
import shutil
import socket
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from daemon.intake.scanner import scan
from daemon.jobs.database import Database
from daemon.jobs.schema import jobs
from tests.bench.daemon import resident, spent
from tests.bench.head import head
from tests.bench.watchers import SCRIPTS, Script
from tests.system.studio import Studio, picture

SETTLE = 2.0
"""Seconds for which a picture must stand still: the setting's default."""

SETTINGS = '[model]\ndevices = ["cpu"]\n[[inbox]]\nafter = "{after}"\n'
BUSY = '[make]\nprompt = "wait"\npreset = "draft"\n'
"""A clip that takes the stand-in worker for ever."""


class Daemon(Studio):
    """The daemon with all settings as they are by default; tells when it has found what."""

    def __init__(self, root: Path, *, after: str = "archive") -> None:
        super().__init__(root, program="tests.bench.looks", PEER_FILM="none", LOOKS=f"{root}/looks")
        self.settings(SETTINGS.format(after=after))
        self.rule("90-default", BUSY)

    def found(self, count: int) -> float | None:
        """When a look first found so many pictures, on the monotonic clock."""
        for line in (self.root / "looks").read_text(encoding="utf-8").splitlines():
            when, found = line.split()
            if int(found) >= count:
                return float(when)
        return None

    def last_job(self) -> int:
        """The highest number of a job, as the ledger's file has it."""
        return int(self._ask("select coalesce(max(id), 0) from jobs")[0])

    def queued(self) -> list[str]:
        """The paths of all jobs."""
        return self._ask("select path from jobs")

    def _ask(self, query: str) -> list[str]:
        file = f"file:{self.root}/.i2vd/queue.sqlite?mode=ro"
        with contextlib.closing(sqlite3.connect(file, uri=True)) as queue:
            return [value for (value,) in queue.execute(query)]

    def spent(self) -> float:
        """Seconds of processor time, with its children."""
        return sum(map(spent, self.processes()))


def pictures(folder: Path, count: int) -> list[Path]:
    """So many small pictures, each unlike any other."""
    folder.mkdir()
    made = [folder / f"new-{number:05}.png" for number in range(count)]
    for number, path in enumerate(made):
        path.write_bytes(picture(number) + number.to_bytes(4, "big"))
    return made


def drop(files: list[Path], inbox: Path) -> float:
    """All at once, each whole; when it began."""
    began = time.monotonic()
    for file in files:
        os.link(file, inbox / file.name)
    return began


def burst_on_daemon(root: Path, files: list[Path]) -> tuple[dict[str, float], list[str]]:
    """Seconds until all are found, and are jobs; and the names that are not a job exactly once."""
    studio = Daemon(root)
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
    """Seconds until it has printed the last name."""
    with script:
        before = spent(script.pid)
        began = drop(files, script.folder)
        last = script.told.until({file.name for file in files})
        return {"found": last - began, "spent": spent(script.pid) - before}


def old_files(folder: Path, count: int) -> None:
    """A thousand a subfolder."""
    for number in range(count):
        place = folder / f"{number // 1000:03}"
        if number % 1000 == 0:
            place.mkdir(parents=True)
        (place / f"old-{number:06}.png").touch()


def enter_as_kept(studio: Studio) -> None:
    """Rows in the ledger as if each picture in the inbox had become a clip and been kept."""
    seen, host = scan(studio.inbox, recursive=True), socket.gethostname()
    common = {"inbox": "inbox", "drop": 1, "variant": 1, "sha256": "", "source": {}}
    common |= {"whereabouts": "kept", "clip_name": "old", "state": "done", "created": 0.0}
    database = Database(f"sqlite:///{studio.root}/.i2vd/queue.sqlite")
    with database.write() as db:
        rows = [
            common | {"path": path, "fingerprint": each.fingerprint(host)}
            for path, each in seen.items()
        ]
        db.execute(jobs.insert(), rows)
    database.close()


def among_old(root: Path, count: int, where: str, idle: float, tries: int) -> dict[str, list[str]]:
    """With so many old files in the "archive" or the "inbox": share of a core, memory, one drop."""
    studio = Daemon(root, after="keep" if where == "inbox" else "archive")
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
        time.sleep(10)  # until what the start brought is over
        pids = [studio.pid, *(script.pid for script in scripts)]
        before = [spent(pid) for pid in pids]
        time.sleep(idle)
        shares = [(spent(pid) - was) / idle for pid, was in zip(pids, before, strict=True)]
        *found, queued = zip(*(one_drop(studio, scripts, n) for n in range(tries)), strict=True)
        return {
            "share of a core, idle": [f"{share:.1%}" for share in shares],
            "memory": [f"{resident(pid):.0f} MB" for pid in pids],
            "until one new file is found": [told(each) for each in found],
            f"until it is a job, of that {SETTLE:g} s of standing still": [told(queued)],
        }
    finally:
        for script in scripts:
            script.stop()
        studio.close()


def one_drop(studio: Daemon, scripts: list[Script], number: int) -> list[float]:
    """Seconds until one new picture is found by the daemon, by the scripts, and is a job."""
    looks = (studio.root / "looks").read_text(encoding="utf-8").splitlines()
    present, jobs_before = int(looks[-1].split()[1]), studio.last_job()
    file = studio.root / f"drop-{number}.png"
    file.write_bytes(picture(number))
    began = drop([file], studio.inbox)
    studio.until(lambda: studio.last_job() > jobs_before, "it is a job")
    queued = time.monotonic() - began
    ours = studio.until(lambda: studio.found(present + 1), "it is found")
    printed = [script.told.until({file.name}) for script in scripts]
    return [ours - began, *(when - began for when in printed), queued]


def told(seconds: tuple[float, ...]) -> str:
    """The median, and all."""
    each = ", ".join(f"{value:.1f}" for value in seconds)
    return f"{statistics.median(seconds):.2f} s ({each})"


def main() -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.arrival")
    parser.add_argument("--files", type=int, default=10_000, help="new ones, all at once")
    parser.add_argument("--old", type=int, default=100_000, help="files that lie there already")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--idle", type=float, default=60.0, help="seconds of doing nothing")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="i2vd-arrival-"))
    table = Table("what", "i2vd", *SCRIPTS, box=None)
    try:
        wrong = _bursts(root, options, table)
        for where in ("archive", "inbox"):
            rows = among_old(root / where, options.old, where, options.idle, options.runs)
            table.add_section()
            table.add_row(f"{options.old} old files in the {where}")
            for what, cells in rows.items():
                table.add_row(what, *cells)
    finally:
        shutil.rmtree(root)
    Console().print(head("python -m tests.bench.arrival"))
    Console(width=120).print(table)
    for name in wrong[:20]:
        sys.stderr.write(f"{name}: not a job exactly once\n")
    return 1 if wrong else 0


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

    def row(what: str, key: str, form: Callable[[tuple[float, ...]], str] = told) -> None:
        cells = [form(tuple(run[key] for run in runs)) for runs in columns if key in runs[0]]
        table.add_row(what, *cells)

    row("until the last is found", "found")
    row(f"until the last is a job, of that {SETTLE:g} s of standing still", "queued")
    row("jobs a second", "rate", lambda rates: f"{statistics.median(rates):.0f}")
    row("processor time for it all", "spent")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
