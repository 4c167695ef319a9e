"""The sweep: a studio's daemon is struck at each system call that it makes for a picture.

Each step drops a picture and strikes at one call, as strace lets us choose it, until all were tried
from the drop until the picture is archived or put aside. A SIGKILL comes before the call, a SIGSTOP
after it, before anything else.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.chaos.drops import Drops, at_rest
from tests.system.studio import Studio

SWEPT = {"picture": "swept{}.png", "rubbish": "rubbish{}.png"}
"""Kinds of pictures that a sweep drops: one that is archived, and one that is put aside. By a name
of its own each, for the search of a free name costs system calls without end."""

CALLS = (
    "linkat", "renameat2", "rename", "mkdir", "unlink", "unlinkat", "rmdir", "fsync", "fdatasync",
    "ftruncate", "utimensat", "write", "pwrite64",
)  # fmt: skip
"""The system calls by which the daemon changes anything that outlives it.

But for openat, which makes files: each is written or synced next, and what a kill leaves between
the two is what it leaves before that call.
"""


@dataclass(frozen=True)
class Point:
    """Before the `number`th time that the daemon makes a system call for a kind of picture."""

    kind: str
    call: str
    number: int

    def __str__(self) -> str:
        return f"{self.call} {self.number} of a {self.kind}"


class Sweep:
    """Walks through all points: each call, its first time, its second ..., until it is survived.

    Twice, for the daemon may make a call less now and then.
    """

    def __init__(self, stride: int, blow: signal.Signals = signal.SIGKILL) -> None:
        self.points = 0
        self.passes = 0
        self._kinds = tuple(SWEPT)
        self._stride, self._blow = stride, blow
        self._next = self._first()
        self._survived = 0

    def _first(self) -> Point:
        return Point(self._kinds[0], CALLS[0], 1)

    def told(self) -> str:
        """How far it is."""
        return f"{self.points}, {self.passes} whole sweeps, next {self._next}"

    def is_over(self, options: argparse.Namespace, rounds: int) -> bool:
        """Whether a run with these options has had enough rounds."""
        return self.passes > 0 if options.sweep else rounds >= options.rounds

    def step(self, studio: Studio, drops: Drops) -> tuple[Point, bool]:
        """Drop a picture and strike at the next point; whether it was hit, else all is at rest."""
        point, hit = self._next, False
        with armed(studio, point, self._blow):
            drops.drop(SWEPT[point.kind].format(drops.count))
            end = time.monotonic() + 30
            while not hit and not at_rest(studio) and time.monotonic() < end:
                time.sleep(0.01)
                hit = not studio.running or _stands_still(studio.pid)
        self._tried(survived=not hit)
        return point, hit

    def _tried(self, *, survived: bool) -> None:
        """The daemon died there, or the call is not made so often."""
        if survived:
            self._survived += 1
            if self._survived == 2:
                self._next = self._after()
        else:
            self._survived = 0
            self.points += 1
            self._next = replace(self._next, number=self._next.number + self._stride)

    def _after(self) -> Point:
        """The first time of the next call, or of the first call for the next kind."""
        self._survived = 0
        kind, call = self._next.kind, self._next.call
        if call != CALLS[-1]:
            return Point(kind, CALLS[CALLS.index(call) + 1], 1)
        if kind != self._kinds[-1]:
            return Point(self._kinds[self._kinds.index(kind) + 1], CALLS[0], 1)
        self.passes += 1
        return self._first()


@contextlib.contextmanager
def armed(studio: Studio, point: Point, blow: signal.Signals = signal.SIGKILL) -> Iterator[None]:
    """The daemon will be killed, or made to stand still, at this point."""
    inject = f"inject={point.call}:signal={blow.name}:when={point.number}"
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-o", os.devnull, "-p", str(studio.pid),
         "-e", f"trace={point.call}", "-e", inject],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        end = time.monotonic() + 20
        while not _all_traced(studio.pid):
            if tracer.poll() is not None or time.monotonic() > end:
                raise RuntimeError("strace does not attach: are we allowed to trace?")
            time.sleep(0.005)
        yield
    finally:
        tracer.terminate()
        try:
            tracer.wait(5)
        except subprocess.TimeoutExpired:  # it still waits for a thread of the killed daemon
            tracer.kill()
            tracer.wait()


def _stands_still(pid: int) -> bool:
    """Whether none of its threads runs: one alone may be held by the tracer for a moment."""
    try:
        tasks = [*Path(f"/proc/{pid}/task").iterdir()]
        told = [(task / "stat").read_text().rpartition(") ")[2] for task in tasks]
    except OSError:  # it ends, or a thread does
        return False
    return all(each[0] in "Tt" for each in told)


def _all_traced(pid: int) -> bool:
    for task in Path(f"/proc/{pid}/task").iterdir():
        if "\nTracerPid:\t0\n" in (task / "status").read_text(encoding="utf-8"):
            return False
    return True
