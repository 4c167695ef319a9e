"""`i2vd bench timeline`: how long the device waits between clips, by the worker's own timeline.

A real daemon on the embedded model makes clip after clip; the worker writes down what it did when.
The device is idle between the end of one stage that uses it and the beginning of the next.
"""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from daemon.demo import SAMPLES
from daemon.submit import copy_in
from daemon.trial import Trial, TrialFailed, trial

ON_DEVICE = ("encode", "compile", "denoise", "decode")
_VARIABLE = "I2VD_TIMELINE"
_PATIENCE = 600.0
_RULE = '[make]\nprompt = "camera panning right"\npreset = "{preset}"\n'


@dataclass(frozen=True)
class Stretch:
    """A stage of one clip, from `begin` to `end` in seconds."""

    job: str
    stage: str
    begin: float
    end: float


@dataclass(frozen=True)
class Wait:
    """Seconds of the device on one clip, and without work from there to the next clip."""

    job: str
    busy: float
    idle: float


def record(folder: Path, clips: int, preset: str) -> Path:
    """Make so many clips in an empty folder; the Chrome trace of it. Raises TrialFailed."""
    trace = folder / "trace.json"
    (folder / "rules").mkdir(parents=True)
    (folder / "rules" / "90-bench.toml").write_text(_RULE.format(preset=preset), encoding="utf-8")
    with trial(folder, "bench timeline", {_VARIABLE: str(trace.resolve())}) as daemon:
        samples = sorted(SAMPLES.glob("*.jpg"))
        for number in range(clips):
            with samples[number % len(samples)].open("rb") as content:
                copy_in(content, f"{number:03}.jpg", folder / "inbox")
        _wait_for(daemon, clips)
    with trace.open("a", encoding="utf-8") as file:
        file.write("{}]\n")
    return trace


def _wait_for(daemon: Trial, clips: int) -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and daemon.runs:
        jobs = daemon.api.get("/api/status").json()["jobs"]
        if jobs["failed"]:
            raise TrialFailed("a clip failed; see daemon.log")
        if jobs["done"] >= clips:
            return
        time.sleep(0.5)
    raise TrialFailed(f"{clips} clips were not made within {_PATIENCE:.0f} s; see daemon.log")


def stretches(trace: Path) -> list[Stretch]:
    """All stages of all clips, in the order of their beginnings."""
    events: list[dict[str, Any]] = json.loads(trace.read_text(encoding="utf-8"))
    found = [
        Stretch(e["args"]["job"], e["name"], e["ts"] / 1e6, (e["ts"] + e["dur"]) / 1e6)
        for e in events
        if e and e["args"]["job"]
    ]
    return sorted(found, key=lambda each: each.begin)


def waits(timeline: Sequence[Stretch]) -> list[Wait]:
    """How long the device waited after each clip but the last."""
    used = [each for each in timeline if each.stage in ON_DEVICE]
    jobs = list(dict.fromkeys(each.job for each in used))
    first = {job: min(s.begin for s in used if s.job == job) for job in jobs}
    last = {job: max(s.end for s in used if s.job == job) for job in jobs}
    return [
        Wait(
            job=job,
            busy=sum(s.end - s.begin for s in used if s.job == job),
            idle=max(0.0, first[following] - last[job]),
        )
        for job, following in pairwise(jobs)
    ]


def show(found: Sequence[Wait], console: Console) -> None:
    """The table, and the share of all in its last line."""
    table = Table("clip", "device at work", "then idle", "share", box=None)
    for each in found:
        table.add_row(each.job, f"{each.busy:.3f} s", f"{each.idle * 1e3:.0f} ms", _share([each]))
    table.add_row("all", *_sums(found), _share(found), style="bold")
    console.print(table)


def _sums(found: Sequence[Wait]) -> tuple[str, str]:
    return f"{sum(w.busy for w in found):.3f} s", f"{sum(w.idle for w in found) * 1e3:.0f} ms"


def _share(found: Sequence[Wait]) -> str:
    idle, busy = sum(w.idle for w in found), sum(w.busy for w in found)
    return f"{idle / (idle + busy):.2%}" if found else ""


def keep(trace: Path, place: Path) -> None:
    """Put the trace where it was asked for."""
    shutil.copyfile(trace, place)
