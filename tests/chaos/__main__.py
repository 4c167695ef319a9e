"""Chaos test: `python -m tests.chaos --rounds N --seed S` kills the daemon and audits the folders.

Each round submits pictures, kills a process, restarts the daemon, waits until it is idle, and
compares the folders with the audit. The first half of the rounds kills before chosen system calls,
in order; the second half at random moments. Ends at the first error, with exit code 1, and keeps
the folder.

`--sweep`: kill before each system call once, from the submission until the picture is in the
archive or in failed/; takes half an hour, with several hosts an hour. `--micro`: the real worker
with the embedded model; random kills only, unless with `--sweep`. `--mixed`: random kills over a
mixed diet (diet.py). `--hosts N`: several hosts (fleet.py). `--fault`: the fault that hits one of
them in the sweep.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from daemon.cli.sandbox import SandboxFailed
from tests.chaos import fleet, kills
from tests.chaos.diet import MixedDiet, backing
from tests.chaos.drops import Drops, is_idle
from tests.chaos.film import film
from tests.chaos.observer import Observer
from tests.chaos.sweep import Sweep
from tests.field.runner import UNPRIVILEGED
from tests.system.studio import DRAFT, Studio

SETTINGS = """\
min_free = 0
scan_interval = 0.1
stop_grace = 0.3

[queue]
max_attempts = 2
backoff = 0.05

[model]
devices = ["cpu"]

[[inbox]]
stability_delay = 0.05
unreadable_timeout = 0.1
"""

SETTINGS_MIXED = SETTINGS.replace("unreadable_timeout = 0.1", "unreadable_timeout = 3.0")
"""Half copies are complete before this time has passed."""

RULES = {
    "10-poison": '[match]\nnames = ["poison*"]\n[make]\nprompt = "kill"\npreset = "draft"\n',
    "20-fail": '[match]\nnames = ["fail*"]\n[make]\nprompt = "fail"\npreset = "draft"\n',
    "90-default": '[make]\nprompt = "film"\npreset = "draft"\n',
}
PLACES = ("cat.png", "cat.gif", "pets/cat.png", "dög.png", "-x.png", "rubbish.png", "fail.png")
"""Paths of the pictures. Some clips compete for a name; "rubbish" and "fail" yield no clip."""

FAULTS = {"I2VD_TESTING": "1", "I2VD_TEST_FAULT": "fail:denoise:fail;die:denoise:kill"}
"""Fault injection of the real worker, selected by the prompt."""


class Run:
    """A run of several rounds in one studio."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.studio = _studio(folder, options)
        self.drops = Drops(self.studio)
        self.counts: Counter[str] = Counter()
        self.sweep = Sweep(options.stride)
        self._rng = random.Random(options.seed)
        self.diet = MixedDiet(self.studio, self.drops, self._rng) if options.mixed else None

    def sweep_round(self) -> list[str]:
        """Submit one picture, kill before a chosen system call, and return the errors."""
        studio = self.studio
        studio.environment["CHAOS_THREADS"] = "1"
        if not studio.running:
            studio.start()
        # Starts the child processes before the tracer attaches.
        self.drops.drop(f"warm{self.drops.count}.png")
        self._wait_until_idle()
        point, hit = self.sweep.step(studio, self.drops)
        if hit:
            self.counts[f"kills before {point.call}"] += 1
            studio.wait()
            self._start_again()
        return self._audit(str(point))

    def random_round(self) -> list[str]:
        """Submit some pictures, kill at a random moment, and return the errors."""
        studio, rng = self.studio, self._rng
        if studio.environment.pop("CHAOS_THREADS", None) and studio.running:
            studio.stop()
        if not studio.running:
            studio.start()
        victim = kills.choose(rng)
        events = [*(self.diet.course() if self.diet else self._course())]
        events.append((rng.uniform(0, 1.5), partial(self._kill, victim)))
        began = time.monotonic()
        for moment, act in sorted(events, key=lambda event: event[0]):
            time.sleep(max(0.0, began + moment - time.monotonic()))
            act()
        if victim in ("daemon", "all", "term"):
            studio.wait()
            self._start_again()
        if self.diet:
            self.diet.settle()
        return self._audit(f"{victim} hit")

    def _course(self) -> Iterator[tuple[float, Callable[[], None]]]:
        """Yield the pictures of a round, each with its second."""
        for _ in range(self._rng.randint(1, 4)):
            name = self._rng.choice((*PLACES, "poison.png"))
            yield self._rng.uniform(0, 0.6), partial(self.drops.drop, name)

    def _kill(self, victim: str) -> None:
        if kills.kill(self.studio, victim):
            self.counts[f"{victim} hit" if victim != "term" else "daemon told to stop"] += 1

    def _start_again(self) -> None:
        """Start the daemon, sometimes killing it during its recovery first."""
        while self._rng.random() < 0.25:
            self.studio.start(ready=False)
            time.sleep(self._rng.uniform(0.2, 1.5))
            self.studio.kill()
            self.counts["kills in recovery"] += 1
        self.studio.start()
        self.counts["restarts"] += 1

    def _wait_until_idle(self) -> None:
        self.studio.until(lambda: is_idle(self.studio), "the daemon is at rest")

    def _audit(self, what: str) -> list[str]:
        """Wait until the daemon is idle and no orphans are left, and return the audit's errors."""
        self._wait_until_idle()
        studio = self.studio
        studio.until(lambda: not studio.staging(), "staging is empty", 10)
        studio.until(lambda: len(studio.processes()) <= 3, "no orphans", 20)
        return [f"{error} ({what})" for error in self.drops.audit.errors(studio)]


def _studio(folder: Path, options: argparse.Namespace) -> Studio:
    stand_in = {} if options.micro else {"PEER_FILM": str(film(folder / "film.mp4"))}
    studio = Studio(folder / "studio", program="tests.chaos.launch", **FAULTS, **stand_in)
    studio.environment["CHAOS_METHOD"] = options.method
    if options.mixed:
        studio.prefix = UNPRIVILEGED
    studio.settings(SETTINGS_MIXED if options.mixed else SETTINGS)
    rules = RULES | {"90-default": DRAFT} if options.micro else RULES
    for name, text in rules.items():
        studio.rule(name, text)
    return studio


def main() -> int:
    """Run, print the table and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stride", type=int, default=1, help="try each STRIDEth call only")
    parser.add_argument("--method", choices=("link", "rename"), default="link")
    parser.add_argument("--micro", action="store_true", help="the real worker")
    parser.add_argument("--mixed", action="store_true", help="odd names, folders, copies, errors")
    parser.add_argument("--sweep", action="store_true", help="each system call, instead of rounds")
    parser.add_argument("--hosts", type=int, default=1, help="so many on one PostgreSQL")
    parser.add_argument("--fault", choices=fleet.FAULTS, default="killed", help="of their sweep")
    parser.add_argument("--lease", type=float, default=3.0, help="seconds, with several hosts")
    options = parser.parse_args()
    if options.hosts > 1:
        return fleet.run(options)
    folder = Path(tempfile.mkdtemp(prefix="i2vd-chaos-"))
    run = Run(folder, options)
    began, rounds, errors = time.monotonic(), 0, list[str]()
    run.studio.outbox.mkdir()
    try:
        with run.diet or nullcontext(), Observer(backing(run.studio.outbox)) as observer:
            while not errors and not run.sweep.is_over(options, rounds):
                halfway = rounds >= options.rounds // 2
                sweeping = options.sweep or not (options.micro or options.mixed or halfway)
                errors = run.sweep_round() if sweeping else run.random_round()
                errors += observer.errors
                rounds += 1
        errors += [each for each in observer.errors if each not in errors]
    except (AssertionError, SandboxFailed) as error:
        errors = [str(error)]
    finally:
        run.studio.close()
    _print(run, rounds, observer, time.monotonic() - began)
    for error in errors:
        sys.stderr.write(f"round {rounds}, seed {options.seed}: {error}\n")
    if errors:
        sys.stderr.write(f"the folders are kept: {folder}\n")
        return 1
    shutil.rmtree(folder)
    return 0


def _print(run: Run, rounds: int, observer: Observer, seconds: float) -> None:
    table = Table("what", "how many", box=None)
    table.add_row("rounds", str(rounds))
    table.add_row("system calls swept", run.sweep.progress())
    table.add_row("pictures dropped", str(run.drops.count))
    counts = run.counts + (run.diet.counts if run.diet else Counter())
    for what, count in sorted(counts.items()):
        table.add_row(what, str(count))
    table.add_row("became clips", str(len(run.studio.clips())))
    table.add_row("failed, with the reason", str(sum(run.drops.audit.unusable.values())))
    table.add_row("polls of the outbox", str(observer.polls))
    table.add_row("seconds", f"{seconds:.0f}")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
