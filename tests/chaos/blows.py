"""Blows: SIGKILL to the processes of a studio, at any moment or before a chosen system call."""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.system.studio import Studio

VICTIMS = {"daemon": 5, "worker": 2, "picture": 2, "all": 2, "term": 1}
"""Who is hit, and how often; "term" is a SIGTERM to the daemon."""

CALLS = (
    "linkat", "renameat2", "rename", "mkdir", "unlink", "unlinkat", "rmdir", "fsync", "fdatasync",
    "ftruncate", "utimensat", "write", "pwrite64",
)  # fmt: skip
"""The system calls by which the daemon changes anything that outlives it.

But for openat, which makes files: each is written or synced next, and what a kill leaves between
the two is what it leaves before that call.
"""


def strike(studio: Studio, victim: str) -> bool:
    """Hit; False when there was nobody to hit."""
    if victim == "term":
        studio.signal(signal.SIGTERM)
        return True
    pids = {
        "daemon": [studio.pid],
        "worker": studio.processes("tests.pipeline.peer") + studio.processes("pipeline.worker"),
        "picture": studio.processes("pipeline.picture"),
        "all": studio.processes(),
    }[victim]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(pids)


def choose(rng: random.Random) -> str:
    """A victim."""
    return rng.choices([*VICTIMS], [*VICTIMS.values()])[0]


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

    def __init__(self, kinds: tuple[str, ...], stride: int) -> None:
        self.points = 0
        self.passes = 0
        self._kinds = kinds
        self._stride = stride
        self._next = self._first()
        self._survived = 0

    def _first(self) -> Point:
        return Point(self._kinds[0], CALLS[0], 1)

    def next(self) -> Point:
        """The point to try now."""
        return self._next

    def tried(self, *, survived: bool) -> None:
        """What came of it: the daemon died there, or the call is not made so often."""
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
def armed(studio: Studio, point: Point) -> Iterator[None]:
    """The daemon will be killed at this point, as strace lets us choose it."""
    inject = f"inject={point.call}:signal=SIGKILL:when={point.number}"
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


def _all_traced(pid: int) -> bool:
    for task in Path(f"/proc/{pid}/task").iterdir():
        if "\nTracerPid:\t0\n" in (task / "status").read_text(encoding="utf-8"):
            return False
    return True
