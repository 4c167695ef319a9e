"""Soak test: does memory or the number of files grow? `python -m tests.bench.soak`.

The real daemon always has pictures, one in twenty of them broken. Meanwhile rules are saved again,
metrics scraped, the newest jobs listed and all events followed. Memory, open files and threads of
the daemon and its children are sampled. With `--film` a stand-in replaces the worker, so that the
daemon processes many more jobs.
"""

import argparse
import contextlib
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import linear_regression
from typing import Any

import httpx2
from rich.console import Console
from rich.table import Table

from tests.bench.daemon import resident
from tests.bench.head import head
from tests.chaos.film import film
from tests.system.studio import Studio, names, picture

SETTINGS = (
    '[model]\ndevices = ["cpu"]\n\n[[inbox]]\nstability_delay = 0.2\nunreadable_timeout = 3.0\n'
)
RULE = '[make]\nprompt = "{prompt}"\npreset = "draft"\nsteps = 10\n'
WAITING = 200
"""Maximum number of pictures in the inbox."""
FIRST = 50
"""Jobs before the first sample, so that all processes have worked."""
BROKEN = 20
"""One picture in this many is broken."""
SAMPLES = 12


@dataclass(frozen=True)
class Process:
    """Resources of one process; `memory` in MB."""

    pid: int
    memory: float
    files: int
    threads: int


@dataclass(frozen=True)
class Sample:
    """Resources of all processes at a moment."""

    minutes: float
    jobs: int
    processes: dict[str, Process]


def process(pid: int) -> Process:
    """Return the resources of a process."""
    files, threads = (len([*Path(f"/proc/{pid}/{kind}").iterdir()]) for kind in ("fd", "task"))
    return Process(pid, resident(pid), files, threads)


class Soak:
    """A studio with permanent load."""

    def __init__(self, root: Path, *, stand_in: bool) -> None:
        if stand_in:
            clip = str(film(root / "film.mp4"))
            self._studio = Studio(root / "studio", program="tests.chaos.launch", PEER_FILM=clip)
        else:
            self._studio = Studio(root / "studio")
        self._prompt = "film" if stand_in else "camera zooming in slowly"
        self._worker = "tests.pipeline.peer" if stand_in else "pipeline.worker"
        self._over = threading.Event()

    def samples(self, minutes: float) -> list[Sample]:
        """Take samples during this number of minutes."""
        studio = self._studio
        studio.settings(SETTINGS)
        self._save_rule()
        try:
            studio.start()
            for task in (self._drop, self._follow, self._ask):
                threading.Thread(target=task, daemon=True).start()
            studio.until(lambda: self._jobs() > FIRST, "the first jobs are done", minutes * 60)
            began = time.monotonic()
            found = [self._sample(began)]
            for number in range(1, SAMPLES + 1):
                time.sleep(max(0.0, began + number * minutes * 60 / SAMPLES - time.monotonic()))
                found.append(self._sample(began))
            return found
        finally:
            self._over.set()
            studio.close()

    def _sample(self, began: float) -> Sample:
        studio = self._studio
        found = {"daemon": process(studio.pid)}
        for name, module in (("worker", self._worker), ("picture child", "pipeline.image")):
            for pid in studio.processes(module):
                found[name] = process(pid)
        return Sample((time.monotonic() - began) / 60, self._jobs(), found)

    def _jobs(self) -> int:
        ended = (self._studio.metric("i2vd_jobs", state=state) for state in ("done", "failed"))
        return round(sum(ended))

    def _save_rule(self) -> None:
        self._studio.rule("90-default", RULE.format(prompt=self._prompt))

    # --- what goes on meanwhile, each in its thread

    def _drop(self) -> None:
        studio = self._studio
        for number in count():
            while len(names(studio.inbox)) >= WAITING:
                if self._over.wait(0.1):
                    return
            content = picture(number) + number.to_bytes(4, "big")
            broken = number % BROKEN == BROKEN - 1
            studio.drop(f"{number}.png", content[: len(content) // 2] if broken else content)
            if self._over.is_set():
                return

    def _follow(self) -> None:
        def follow(http: httpx2.Client) -> None:
            with http.stream("GET", "/api/events?after=0", timeout=None) as events:
                for _ in events.iter_lines():
                    pass

        self._asking(follow)

    def _ask(self) -> None:
        def ask(http: httpx2.Client) -> None:
            for turn in count():
                for path in ("/metrics", "/api/status", "/api/jobs?limit=50", "/"):
                    http.get(path).raise_for_status()
                if turn % 12 == 0:
                    self._save_rule()
                if self._over.wait(5.0):
                    return

        self._asking(ask)

    def _asking(self, ask: Callable[[httpx2.Client], Any]) -> None:
        url = f"http://127.0.0.1:{self._studio.port}"
        client = httpx2.Client(base_url=url, trust_env=False, timeout=30)
        with client as http, contextlib.suppress(httpx2.TransportError):
            ask(http)
        if not self._over.is_set():
            raise RuntimeError("the daemon hung up")


def growth(samples: Sequence[Sample], name: str) -> str:
    """Return a process's growth in MB per thousand jobs, over the later half of the samples."""
    later = [s for s in samples[len(samples) // 2 :] if name in s.processes]
    if len({s.processes[name].pid for s in samples if name in s.processes}) > 1:
        return "was replaced"
    jobs = [each.jobs / 1000 for each in later]
    return f"{linear_regression(jobs, [s.processes[name].memory for s in later]).slope:+.2f} MB"


def table(samples: Sequence[Sample]) -> Table:
    """Return a table of each process's memory, open files and threads, and its growth."""
    processes = list(samples[-1].processes)
    shown = Table("minutes", "jobs", *processes, box=None)
    for each in samples:
        had = [each.processes.get(name) for name in processes]
        shown.add_row(
            f"{each.minutes:.1f}",
            str(each.jobs),
            *(f"{p.memory:.0f} MB, {p.files}, {p.threads}" if p else "" for p in had),
        )
    shown.add_row("later half", "a thousand", *(growth(samples, name) for name in processes))
    return shown


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--film", action="store_true", help="a stand-in makes the clips")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="i2vd-bench-") as folder:
        samples = Soak(Path(folder), stand_in=options.film).samples(options.minutes)
    console = Console(width=120)
    asked = f"--minutes {options.minutes:g}{' --film' if options.film else ''}"
    console.print(head(f"python -m tests.bench.soak {asked}"))
    console.print("memory, open files, threads")
    console.print(table(samples))


if __name__ == "__main__":
    main()
