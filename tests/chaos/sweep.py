"""Sweep: signal a studio's daemon at each system call that it makes for a picture.

Each step submits a picture and signals at one call by strace's injection. The sweep covers all
calls from the submission until the picture is in the archive or in failed/. A SIGKILL arrives
before the call, a SIGSTOP directly after it.
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

from tests.chaos.drops import Drops, is_idle
from tests.system.studio import Studio

SWEPT = {"picture": "swept{}.png", "rubbish": "rubbish{}.png"}
"""Kinds of pictures in a sweep: one is archived, one moves to failed/.

Each picture has its own name: searching for a free name takes more and more system calls.
"""

CALLS = (
    "linkat", "renameat2", "rename", "mkdir", "unlink", "unlinkat", "rmdir", "fsync", "fdatasync",
    "ftruncate", "utimensat", "write", "pwrite64",
)  # fmt: skip
"""The system calls by which the daemon makes persistent changes.

openat is omitted: a created file is written or synced next, and a kill between the two leaves the
same state as a kill before that call.
"""


@dataclass(frozen=True)
class Point:
    """The `number`th time that the daemon makes a system call for a kind of picture."""

    kind: str
    call: str
    number: int

    def __str__(self) -> str:
        return f"{self.call} {self.number} of a {self.kind}"


class Sweep:
    """Iteration over all points: the first, second, ... time of each call.

    A call is finished when the daemon survives twice, because it may sometimes make one call less.
    """

    def __init__(self, stride: int, number: signal.Signals = signal.SIGKILL) -> None:
        self.points = 0
        self.passes = 0
        self._kinds = tuple(SWEPT)
        self._stride, self._signal = stride, number
        self._next = self._first()
        self._survived = 0

    def _first(self) -> Point:
        return Point(self._kinds[0], CALLS[0], 1)

    def progress(self) -> str:
        """Return a description of the progress."""
        return f"{self.points}, {self.passes} whole sweeps, next {self._next}"

    def is_over(self, options: argparse.Namespace, rounds: int) -> bool:
        """Return True if a run with these options has had enough rounds."""
        return self.passes > 0 if options.sweep else rounds >= options.rounds

    def step(self, studio: Studio, drops: Drops) -> tuple[Point, bool]:
        """Submit a picture and signal at the next point. Return it, and True if it was reached."""
        point, hit = self._next, False
        with armed(studio, point, self._signal):
            drops.drop(SWEPT[point.kind].format(drops.count))
            end = time.monotonic() + 30
            while not hit and not is_idle(studio) and time.monotonic() < end:
                time.sleep(0.01)
                hit = not studio.running or _is_stopped(studio.pid)
        self._advance(survived=not hit)
        return point, hit

    def _advance(self, *, survived: bool) -> None:
        """Go to the next point; `survived`: the daemon did not make the call so often."""
        if survived:
            self._survived += 1
            if self._survived == 2:
                self._next = self._next_call()
        else:
            self._survived = 0
            self.points += 1
            self._next = replace(self._next, number=self._next.number + self._stride)

    def _next_call(self) -> Point:
        """Return the first time of the next call, or of the first call of the next kind."""
        self._survived = 0
        kind, call = self._next.kind, self._next.call
        if call != CALLS[-1]:
            return Point(kind, CALLS[CALLS.index(call) + 1], 1)
        if kind != self._kinds[-1]:
            return Point(self._kinds[self._kinds.index(kind) + 1], CALLS[0], 1)
        self.passes += 1
        return self._first()


@contextlib.contextmanager
def armed(studio: Studio, point: Point, number: signal.Signals = signal.SIGKILL) -> Iterator[None]:
    """Attach strace, which signals the daemon at this point."""
    inject = f"inject={point.call}:signal={number.name}:when={point.number}"
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-o", os.devnull, "-p", str(studio.pid),
         "-e", f"trace={point.call}", "-e", inject],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        end = time.monotonic() + 20
        while not _all_traced(studio.pid):
            if tracer.poll() is not None or time.monotonic() > end:
                raise RuntimeError("strace does not attach: is tracing allowed?")
            time.sleep(0.005)
        yield
    finally:
        tracer.terminate()
        try:
            tracer.wait(5)
        except subprocess.TimeoutExpired:  # it still waits for a thread of the killed daemon
            tracer.kill()
            tracer.wait()


def _is_stopped(pid: int) -> bool:
    """Return True if all threads are stopped: the tracer may stop single threads briefly."""
    try:
        tasks = [*Path(f"/proc/{pid}/task").iterdir()]
        states = [(task / "stat").read_text().rpartition(") ")[2] for task in tasks]
    except OSError:  # it ends, or a thread does
        return False
    return all(each[0] in "Tt" for each in states)


def _all_traced(pid: int) -> bool:
    for task in Path(f"/proc/{pid}/task").iterdir():
        if "\nTracerPid:\t0\n" in (task / "status").read_text(encoding="utf-8"):
            return False
    return True
