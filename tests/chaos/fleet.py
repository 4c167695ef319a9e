"""Chaos on several hosts: `python -m tests.chaos --hosts 3 --rounds N --seed S`.

They share one folder and one PostgreSQL. Each round submits pictures and injects a fault into the
host that runs one: the host is killed, stopped, or cut off from the database for longer than the
lease (if network namespaces are allowed), or the database is restarted under load. Then the fault
is repaired, and the folders are audited. The time until another host has the job is measured.

`--sweep`: while the others are stopped, the first host is killed before each system call in turn;
then the others continue without it. With another `--fault` the host is stopped after each call
instead, until the others have finished, or continues cut off or while the database restarts.
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
from tests.chaos.drops import Drops, is_idle
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
FAULTS = ("killed", "stopped", "cut off", "database restarted")
CLAIM_INTERVAL = 2.0
"""Seconds between two claims of an idle host (`daemon.dispatch.dispatcher`)."""


class Hosts:
    """Several hosts, a database, and the submitted pictures."""

    def __init__(
        self, folder: Path, options: argparse.Namespace, server: Server, wires: Network | None
    ) -> None:
        self.wires, self.server, self.lease = wires, server, options.lease
        self.counts = Counter[str]()
        self.takeovers: list[float] = []
        self.fault = options.fault
        kills = self.fault == "killed"
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
                timeout=5 if options.sweep else 30,  # requests are sent to a stopped host
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
        self._faults = [each for each in FAULTS if wires or each != "cut off"]

    def start(self) -> None:
        """Start all hosts."""
        for host in self.hosts.values():
            host.start()

    def close(self) -> None:
        """End all processes."""
        for host in self.hosts.values():
            host.close()

    def sweep_round(self) -> list[str]:
        """Submit a picture, inject the fault at a chosen system call, and return the errors."""
        first, *others = self.hosts.values()
        if not first.running:
            first.start()
        for host in others:
            host.signal(signal.SIGSTOP)
        self.drops.drop(f"warm{self.drops.count}.png")
        # Starts the child processes before the tracer attaches.
        first.until(lambda: is_idle(first), "the first host is idle")
        point, hit = self.sweep.step(first, self.drops)
        if hit:
            self.counts[f"{self.fault}, {point.call}"] += 1
            self._inject(first)
        self._wake(*self.hosts.values())
        return [f"{error} ({self.fault}, {point})" for error in self._audit()]

    def _inject(self, first: Studio) -> None:
        """Complete the fault on a host that is stopped or was killed at a system call."""
        every_host = self.hosts.values()
        others = [host for host in every_host if host is not first]
        match self.fault:
            case "killed":
                first.wait()
                for pid in first.processes():  # the host is gone, with all that ran on it
                    os.kill(pid, signal.SIGKILL)
            case "stopped":
                self._wake(*others)
                self._leave_to(others[0])
            case "cut off":
                assert self.wires is not None, "no host can be cut off here"
                self.wires.cut(first.root.name)
                self._wake(*every_host)
                self._leave_to(others[0])
                self.wires.reconnect(first.root.name)
            case _:
                self.server.stop()
                self._wake(*every_host)
                time.sleep(self._rng.uniform(0, 2.0))
                self.server.start()

    def _wake(self, *hosts: Studio) -> None:
        for host in hosts:
            if host.running:
                host.signal(signal.SIGCONT)

    def _leave_to(self, host: Studio) -> None:
        """Wait until the others have finished, or until they can only wait for the first host."""
        end = time.monotonic() + self.lease + 2 * CLAIM_INTERVAL
        while time.monotonic() < end:
            if is_idle(host):
                self.counts["done by the others meanwhile"] += 1
                return
            time.sleep(0.05)

    def round(self, number: int) -> list[str]:
        """Submit some pictures, inject a fault, and return the errors."""
        fault = self._faults[number % len(self._faults)]
        self.drops.drop("long.png")
        for name in self._rng.choices(PLACES, k=self._rng.randint(1, 3)):
            self.drops.drop(name)
        name, job = self.any.until(self._find_long_job, "a host runs a long job")
        time.sleep(self._rng.uniform(0, 2.0))
        with self._faulty(fault, name):
            self.drops.drop(self._rng.choice(PLACES))
            if fault != "database restarted":
                self._await_takeover(name, job)
        self.counts[fault] += 1
        return [f"{error} ({fault}: {name})" for error in self._audit()]

    def _find_long_job(self) -> tuple[str, int] | None:
        for name, host in self.hosts.items():
            slot = host.slot()
            if (slot["path"] or "").startswith("long"):
                return name, slot["job"]
        return None

    @contextlib.contextmanager
    def _faulty(self, fault: str, name: str) -> Iterator[None]:
        host = self.hosts[name]
        match fault:
            case "killed":
                host.kill()
                yield
                host.start()
            case "stopped":
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
        """Wait until another host has the job, unless it was finished or published in time."""
        began = time.monotonic()
        other = next(host for key, host in self.hosts.items() if key != name)

        def recovered_state() -> str | None:
            found = other.get(f"/api/jobs/{job}")
            return found["state"] if found["attempt"] > 1 or found["state"] == "done" else None

        other.until(recovered_state, "another host has the job", self.lease + 60)
        if "recovered" in other.events(job):
            self.takeovers.append(time.monotonic() - began)

    def _audit(self) -> list[str]:
        """Wait until all running hosts are idle and healthy, and return the audit's errors."""
        hosts = {name: host for name, host in self.hosts.items() if host.running}
        any_host = next(iter(hosts.values()))
        any_host.until(lambda: is_idle(any_host), "all hosts are idle")
        for name, host in hosts.items():
            host.until(lambda host=host: _is_healthy(host), f"{name} is healthy again")
            host.until(lambda host=host: host.slot()["job"] is None, f"{name} is free")
            host.until(lambda host=host: len(host.processes()) <= 3, "no orphans", 20)
        any_host.until(lambda: not any_host.staging(), "staging is empty", 20)
        return [*self.drops.audit.errors(any_host)]


def _is_healthy(host: Studio) -> bool:
    """Return True if ready, except for killed workers, which are reported until the next clip."""
    try:
        problems = host.get("/api/status")["problems"]
    except AssertionError:
        return False
    return all(each.startswith("cpu: ") for each in problems)


def names_of(count: int) -> list[str]:
    """Return the hosts' names."""
    return [f"host{number}" for number in range(1, count + 1)]


@contextlib.contextmanager
def _open_database(count: int) -> Iterator[tuple[Server, Network | None]]:
    """Yield a database, in a network with the hosts or, if not allowed, on a socket."""
    with contextlib.ExitStack() as stack:
        try:
            wires = stack.enter_context(network("db", *names_of(count)))
        except pytest.skip.Exception as reason:
            sys.stderr.write(f"no host is cut off: {reason}\n")
            yield stack.enter_context(serving()), None
            return
        server = serving(ADDRESS.format(1), within=wires.within("db"))
        yield stack.enter_context(server), wires


def run(options: argparse.Namespace) -> int:
    """Run, print the table and return the exit code."""
    folder = Path(tempfile.mkdtemp(prefix="i2vd-chaos-"))
    began, rounds, errors = time.monotonic(), 0, list[str]()
    with _open_database(options.hosts) as (server, wires):
        hosts = Hosts(folder, options, server, wires)
        try:
            hosts.start()
            with Observer(hosts.any.outbox) as observer:
                while not errors and not hosts.sweep.is_over(options, rounds):
                    errors = hosts.sweep_round() if options.sweep else hosts.round(rounds)
                    errors += observer.errors
                    rounds += 1
            errors += [each for each in observer.errors if each not in errors]
        except (AssertionError, SandboxFailed) as error:
            errors = [str(error)]
        finally:
            hosts.close()
    _print(hosts, rounds, time.monotonic() - began)
    for error in errors:
        sys.stderr.write(f"round {rounds}, seed {options.seed}: {error}\n")
    if errors:
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
        table.add_row("system calls swept", hosts.sweep.progress())
    for what, count in sorted(hosts.counts.items()):
        table.add_row(what, str(count))
    table.add_row("became clips", str(len(hosts.any.clips())))
    table.add_row("failed, with the reason", str(sum(hosts.drops.audit.unusable.values())))
    if times := hosts.takeovers:
        summary = f"{statistics.median(times):.1f} s, at most {max(times):.1f} s"
        table.add_row(f"{len(times)} takeovers, median", summary)
        table.add_row("lease and claim interval", f"{hosts.lease:.0f} s + {CLAIM_INTERVAL:.0f} s")
    table.add_row("seconds", f"{seconds:.0f}")
    Console().print(table)
