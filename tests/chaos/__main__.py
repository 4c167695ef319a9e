"""`python -m tests.chaos --rounds N --seed S`: kill the daemon and its children, count afterwards.

Each round drops pictures, strikes, starts the daemon again, waits until it is at rest and compares
the folders with the books. Half of the rounds strike before a chosen system call, one after another
through all that the daemon makes for a picture; half at any moment. Ends at the first complaint,
with exit code 1 and the folder kept.

`--sweep`: before each system call in turn, once, from the drop until the picture is archived or put
aside; half an hour, with several hosts an hour. `--micro`: with the real worker and the embedded
model; kills at any moment only, unless with `--sweep`. `--hosts N`: on several hosts, fleet.py, and
`--blow`: what befalls one of them in the sweep.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from daemon.cli.sandbox import SandboxFailed
from tests.chaos import blows, fleet
from tests.chaos.drops import Drops, at_rest
from tests.chaos.film import film
from tests.chaos.observer import Observer
from tests.chaos.sweep import Sweep
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

RULES = {
    "10-poison": '[match]\nnames = ["poison*"]\n[make]\nprompt = "kill"\npreset = "draft"\n',
    "20-fail": '[match]\nnames = ["fail*"]\n[make]\nprompt = "fail"\npreset = "draft"\n',
    "90-default": '[make]\nprompt = "film"\npreset = "draft"\n',
}
PLACES = ("cat.png", "cat.gif", "pets/cat.png", "dög.png", "-x.png", "rubbish.png", "fail.png")
"""Where pictures are dropped: clips of some want the same name; rubbish and fail become none."""

FAULTS = {"I2VD_TESTING": "1", "I2VD_TEST_FAULT": "fail:denoise:fail;die:denoise:kill"}
"""What makes the real worker do what the prompt says."""


class Run:
    """A run in one studio, round after round."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.studio = _studio(folder, options)
        self.drops = Drops(self.studio)
        self.counts: Counter[str] = Counter()
        self.sweep = Sweep(options.stride)
        self._rng = random.Random(options.seed)

    def sweep_round(self) -> list[str]:
        """One picture, and a kill before a chosen system call; what is wrong afterwards."""
        studio = self.studio
        studio.environment["CHAOS_THREADS"] = "1"
        if not studio.running:
            studio.start()
        self.drops.drop(
            f"warm{self.drops.count}.png"
        )  # the children are there already when the tracer comes
        self._rest()
        point, hit = self.sweep.step(studio, self.drops)
        if hit:
            self.counts[f"kills before {point.call}"] += 1
            studio.wait()
            self._start_again()
        return self._settle(str(point))

    def random_round(self) -> list[str]:
        """Some pictures, and a blow at any moment; what is wrong afterwards."""
        studio, rng = self.studio, self._rng
        if studio.environment.pop("CHAOS_THREADS", None) and studio.running:
            studio.stop()
        if not studio.running:
            studio.start()
        names = [rng.choice((*PLACES, "poison.png")) for _ in range(rng.randint(1, 4))]
        victim = blows.choose(rng)
        events = [(rng.uniform(0, 0.6), name) for name in names] + [(rng.uniform(0, 1.5), "")]
        began = time.monotonic()
        for moment, name in sorted(events):
            time.sleep(max(0.0, began + moment - time.monotonic()))
            if name:
                self.drops.drop(name)
            elif blows.strike(studio, victim):
                self.counts[f"{victim} hit" if victim != "term" else "daemon told to stop"] += 1
        if victim in ("daemon", "all", "term"):
            studio.wait()
            self._start_again()
        return self._settle(f"{victim} hit, dropped {', '.join(names)}")

    def _start_again(self) -> None:
        """And sometimes kill it in the middle of its recovery."""
        while self._rng.random() < 0.25:
            self.studio.start(ready=False)
            time.sleep(self._rng.uniform(0.2, 1.5))
            self.studio.kill()
            self.counts["kills in recovery"] += 1
        self.studio.start()
        self.counts["restarts"] += 1

    def _rest(self) -> None:
        self.studio.until(lambda: at_rest(self.studio), "the daemon is at rest")

    def _settle(self, what: str) -> list[str]:
        """Wait until all is done and nobody is left who should be gone; compare with the books."""
        self._rest()
        studio = self.studio
        studio.until(lambda: not studio.staging(), "staging is empty", 10)
        studio.until(lambda: len(studio.processes()) <= 3, "no orphans", 20)
        return [f"{complaint} ({what})" for complaint in self.drops.books.complaints(studio)]


def _studio(folder: Path, options: argparse.Namespace) -> Studio:
    stand_in = {} if options.micro else {"PEER_FILM": str(film(folder / "film.mp4"))}
    studio = Studio(folder / "studio", program="tests.chaos.launch", **FAULTS, **stand_in)
    studio.environment["CHAOS_METHOD"] = options.method
    studio.settings(SETTINGS)
    rules = RULES | {"90-default": DRAFT} if options.micro else RULES
    for name, text in rules.items():
        studio.rule(name, text)
    return studio


def main() -> int:
    """Run, print the table; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stride", type=int, default=1, help="try each STRIDEth call only")
    parser.add_argument("--method", choices=("link", "rename"), default="link")
    parser.add_argument("--micro", action="store_true", help="the real worker")
    parser.add_argument("--sweep", action="store_true", help="each system call, instead of rounds")
    parser.add_argument("--hosts", type=int, default=1, help="so many on one PostgreSQL")
    parser.add_argument("--blow", choices=fleet.BLOWS, default="killed", help="of their sweep")
    parser.add_argument("--lease", type=float, default=3.0, help="seconds, with several hosts")
    options = parser.parse_args()
    if options.hosts > 1:
        return fleet.run(options)
    folder = Path(tempfile.mkdtemp(prefix="i2vd-chaos-"))
    run = Run(folder, options)
    began, rounds, complaints = time.monotonic(), 0, list[str]()
    run.studio.outbox.mkdir()
    try:
        with Observer(run.studio.outbox) as observer:
            while not complaints and not run.sweep.is_over(options, rounds):
                halfway = rounds >= options.rounds // 2
                sweeping = options.sweep or not (options.micro or halfway)
                complaints = run.sweep_round() if sweeping else run.random_round()
                complaints += observer.bad
                rounds += 1
        complaints += [bad for bad in observer.bad if bad not in complaints]
    except (AssertionError, SandboxFailed) as error:
        complaints = [str(error)]
    finally:
        run.studio.close()
    _print(run, rounds, observer, time.monotonic() - began)
    for complaint in complaints:
        sys.stderr.write(f"round {rounds}, seed {options.seed}: {complaint}\n")
    if complaints:
        sys.stderr.write(f"the folders are kept: {folder}\n")
        return 1
    shutil.rmtree(folder)
    return 0


def _print(run: Run, rounds: int, observer: Observer, seconds: float) -> None:
    table = Table("what", "how many", box=None)
    table.add_row("rounds", str(rounds))
    table.add_row("system calls swept", run.sweep.told())
    table.add_row("pictures dropped", str(run.drops.count))
    for what, count in sorted(run.counts.items()):
        table.add_row(what, str(count))
    table.add_row("became clips", str(len(run.studio.clips())))
    table.add_row("failed, with the reason", str(sum(run.drops.books.doomed.values())))
    table.add_row("looks at the outbox", str(observer.looks))
    table.add_row("seconds", f"{seconds:.0f}")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
