"""Chaos on several hosts: `python -m tests.chaos --hosts 3 --rounds N --seed S`.

They share one folder and one PostgreSQL. Each round drops pictures and, while one is being made,
takes its host away: killed, made to stand still, or cut off from the database (each host has a
network namespace, where that is allowed) for longer than the lease; or the database is restarted
under load. Then all is mended, and the folders are compared with the books. How long it took
until another host had the job is measured.

`--sweep`: the first host is alone with a picture, and killed before each system call in turn; then
the others wake, and do the rest without it. With `--blow` it stands still after each instead, until
the others have done the rest, or goes on while it is cut off or the database is restarted.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from daemon.cli.sandbox import SandboxFailed
from tests.chaos.drops import Drops, at_rest
from tests.chaos.film import film
from tests.chaos.observer import Observer
from tests.chaos.sweep import Sweep
from tests.postgres import Server, serving
from tests.system.hosts import ADDRESS, Network, network
from tests.system.studio import Studio

SETTINGS = """\
min_free = 0
scan_interval = 0.2
stop_grace = 0.3

[queue]
url = "{url}"
lease = {lease}
max_attempts = 2
backoff = 0.05

[model]
devices = ["cpu"]

[[inbox]]
path = "{share}/inbox"
outbox = "{share}/outbox"
archive = "{share}/archive"
failed = "{share}/failed"
rules = "{share}/rules"
stability_delay = 0.05
unreadable_timeout = 0.1
"""
RULES = {
    "10-poison": '[match]\nnames = ["poison*"]\n[make]\nprompt = "kill"\npreset = "draft"\n',
    "20-fail": '[match]\nnames = ["fail*"]\n[make]\nprompt = "fail"\npreset = "draft"\n',
    "30-long": '[match]\nnames = ["long*"]\n[make]\nprompt = "steady"\npreset = "draft"\n',
    "90-default": '[make]\nprompt = "film"\npreset = "draft"\n',
}
PLACES = ("cat.png", "cat.gif", "pets/cat.png", "rubbish.png", "fail.png", "poison.png")
BLOWS = ("killed", "stood still", "cut off", "database restarted")
CLAIM_INTERVAL = 2.0
"""Seconds between two looks of an idle host for something to claim: dispatch.py."""


class Hosts:
    """Some hosts, a database, and what was dropped."""

    def __init__(
        self, folder: Path, options: argparse.Namespace, server: Server, wires: Network | None
    ) -> None:
        self.wires, self.server, self.lease = wires, server, options.lease
        self.counts = Counter[str]()
        self.takeovers: list[float] = []
        self.blow = options.blow
        kills = self.blow == "killed"
        self.sweep = Sweep(options.stride, signal.SIGKILL if kills else signal.SIGSTOP)
        self._rng = random.Random(options.seed)
        share = folder / "share"
        clip = film(folder / "film.mp4")
        url = server.url(server.fresh(), ADDRESS.format(1) if wires else None)
        self.hosts = {}
        for name in names_of(options.hosts):
            host = Studio(
                folder / name,
                program="tests.chaos.launch",
                timeout=5 if options.sweep else 30,  # it is asked while it is made to stand still
                PEER_FILM=str(clip),
            )
            host.settings(SETTINGS.format(url=url, share=share, lease=options.lease))
            host.prefix = wires.prefix(name, host.port) if wires else ()
            if options.sweep and not self.hosts:
                host.environment["CHAOS_THREADS"] = "1"
            for role in ("inbox", "outbox", "archive", "failed", "rules"):
                setattr(host, role, share / role)
                (share / role).mkdir(parents=True, exist_ok=True)
            self.hosts[name] = host
        self.any = next(iter(self.hosts.values()))
        self.drops = Drops(self.any)
        for name, text in RULES.items():
            self.any.rule(name, text)
        self._blows = [each for each in BLOWS if wires or each != "cut off"]

    def start(self) -> None:
        """All of them."""
        for host in self.hosts.values():
            host.start()

    def close(self) -> None:
        """Leave no process behind."""
        for host in self.hosts.values():
            host.close()

    def sweep_round(self) -> list[str]:
        """A picture, and a kill before a chosen system call; what is wrong afterwards."""
        first, *others = self.hosts.values()
        if not first.running:
            first.start()
        for host in others:
            host.signal(signal.SIGSTOP)
        self.drops.drop(f"warm{self.drops.count}.png")
        # The children are there already when the tracer comes.
        first.until(lambda: at_rest(first), "the first host is at rest")
        point, hit = self.sweep.step(first, self.drops)
        if hit:
            self.counts[f"{self.blow}, {point.call}"] += 1
            self._strike(first)
        self._wake(*self.hosts.values())
        return [f"{complaint} ({self.blow}, {point})" for complaint in self._settle()]

    def _strike(self, first: Studio) -> None:
        """Do to a host that stands still, or was killed, what the sweep is about."""
        everybody = self.hosts.values()
        others = [host for host in everybody if host is not first]
        match self.blow:
            case "killed":
                first.wait()
                for pid in first.processes():  # the host is gone, with all that ran on it
                    os.kill(pid, signal.SIGKILL)
            case "stood still":
                self._wake(*others)
                self._leave_to(others[0])
            case "cut off":
                assert self.wires is not None, "no host can be cut off here"
                self.wires.cut(first.root.name)
                self._wake(*everybody)
                self._leave_to(others[0])
                self.wires.reconnect(first.root.name)
            case _:
                self.server.stop()
                self._wake(*everybody)
                time.sleep(self._rng.uniform(0, 2.0))
                self.server.start()

    def _wake(self, *hosts: Studio) -> None:
        for host in hosts:
            if host.running:
                host.signal(signal.SIGCONT)

    def _leave_to(self, host: Studio) -> None:
        """Until the others have done the rest, or wait for the first, which may hold a picture."""
        end = time.monotonic() + self.lease + 2 * CLAIM_INTERVAL
        while time.monotonic() < end:
            if at_rest(host):
                self.counts["done by the others meanwhile"] += 1
                return
            time.sleep(0.05)

    def round(self, number: int) -> list[str]:
        """Some pictures and a blow; what is wrong afterwards."""
        blow = self._blows[number % len(self._blows)]
        self.drops.drop("long.png")
        for name in self._rng.choices(PLACES, k=self._rng.randint(1, 3)):
            self.drops.drop(name)
        name, job = self.any.until(self._at_a_long_one, "a host is at a long one")
        time.sleep(self._rng.uniform(0, 2.0))
        with self._blow(blow, name):
            self.drops.drop(self._rng.choice(PLACES))
            if blow != "database restarted":
                self._await_takeover(name, job)
        self.counts[blow] += 1
        return [f"{complaint} ({blow}: {name})" for complaint in self._settle()]

    def _at_a_long_one(self) -> tuple[str, int] | None:
        for name, host in self.hosts.items():
            slot = host.slot()
            if (slot["path"] or "").startswith("long"):
                return name, slot["job"]
        return None

    @contextlib.contextmanager
    def _blow(self, blow: str, name: str) -> Iterator[None]:
        host = self.hosts[name]
        match blow:
            case "killed":
                host.kill()
                yield
                host.start()
            case "stood still":
                host.signal(signal.SIGSTOP)
                yield
                host.signal(signal.SIGCONT)
            case "cut off":
                assert self.wires is not None
                self.wires.cut(name)
                yield
                self.wires.reconnect(name)
            case _:
                self.server.stop()
                time.sleep(self._rng.uniform(0, 2.0))
                self.server.start()
                yield

    def _await_takeover(self, name: str, job: int) -> None:
        """Until another host has the job, unless it was done, or is being published, in time."""
        began = time.monotonic()
        other = next(host for key, host in self.hosts.items() if key != name)

        def taken() -> str | None:
            told = other.get(f"/api/jobs/{job}")
            return told["state"] if told["attempt"] > 1 or told["state"] == "done" else None

        other.until(taken, "another host has the job", self.lease + 60)
        if "recovered" in other.events(job):
            self.takeovers.append(time.monotonic() - began)

    def _settle(self) -> list[str]:
        """Until all hosts that run are at rest and well; what the folders lack or have too much."""
        hosts = {name: host for name, host in self.hosts.items() if host.running}
        any_host = next(iter(hosts.values()))
        any_host.until(lambda: at_rest(any_host), "all is at rest")
        for name, host in hosts.items():
            host.until(lambda host=host: _is_mended(host), f"{name} is well again")
            host.until(lambda host=host: host.slot()["job"] is None, f"{name} is free")
            host.until(lambda host=host: len(host.processes()) <= 3, "no orphans", 20)
        any_host.until(lambda: not any_host.staging(), "staging is empty", 20)
        return [*self.drops.books.complaints(any_host)]


def _is_mended(host: Studio) -> bool:
    """Ready, but for workers that poison killed: that is told until the next clip is made."""
    try:
        problems = host.get("/api/status")["problems"]
    except AssertionError:
        return False
    return all(each.startswith("cpu: ") for each in problems)


def names_of(count: int) -> list[str]:
    """What the hosts are called."""
    return [f"host{number}" for number in range(1, count + 1)]


@contextlib.contextmanager
def _somewhere(count: int) -> Iterator[tuple[Server, Network | None]]:
    """A database in a network of its own with the hosts; on a socket where that is not allowed."""
    with contextlib.ExitStack() as stack:
        try:
            wires = stack.enter_context(network("db", *names_of(count)))
        except pytest.skip.Exception as why:
            sys.stderr.write(f"no host is cut off: {why}\n")
            yield stack.enter_context(serving()), None
            return
        server = serving(ADDRESS.format(1), within=wires.within("db"))
        yield stack.enter_context(server), wires


def run(options: argparse.Namespace) -> int:
    """Run, print the table; the exit code."""
    folder = Path(tempfile.mkdtemp(prefix="i2vd-chaos-"))
    began, rounds, complaints = time.monotonic(), 0, list[str]()
    with _somewhere(options.hosts) as (server, wires):
        hosts = Hosts(folder, options, server, wires)
        try:
            hosts.start()
            with Observer(hosts.any.outbox) as observer:
                while not complaints and not hosts.sweep.is_over(options, rounds):
                    complaints = hosts.sweep_round() if options.sweep else hosts.round(rounds)
                    complaints += observer.bad
                    rounds += 1
            complaints += [bad for bad in observer.bad if bad not in complaints]
        except (AssertionError, SandboxFailed) as error:
            complaints = [str(error)]
        finally:
            hosts.close()
    _print(hosts, rounds, time.monotonic() - began)
    for complaint in complaints:
        sys.stderr.write(f"round {rounds}, seed {options.seed}: {complaint}\n")
    if complaints:
        sys.stderr.write(f"the folders are kept: {folder}\n")
        return 1
    shutil.rmtree(folder)
    return 0


def _print(hosts: Hosts, rounds: int, seconds: float) -> None:
    table = Table("what", "how many", box=None)
    table.add_row("hosts", str(len(hosts.hosts)))
    table.add_row("rounds", str(rounds))
    table.add_row("pictures dropped", str(hosts.drops.count))
    if hosts.sweep.points:
        table.add_row("system calls swept", hosts.sweep.told())
    for what, count in sorted(hosts.counts.items()):
        table.add_row(what, str(count))
    table.add_row("became clips", str(len(hosts.any.clips())))
    table.add_row("failed, with the reason", str(sum(hosts.drops.books.doomed.values())))
    if times := hosts.takeovers:
        told = f"{statistics.median(times):.1f} s, at most {max(times):.1f} s"
        table.add_row(f"{len(times)} takeovers, median", told)
        table.add_row("lease and claim interval", f"{hosts.lease:.0f} s + {CLAIM_INTERVAL:.0f} s")
    table.add_row("seconds", f"{seconds:.0f}")
    Console().print(table)
