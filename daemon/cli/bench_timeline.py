"""`i2vd bench timeline`: how soon a worker is at work, and how long the device waits between clips.

A real daemon with the configured model makes clip after clip; the worker writes down what it did
when. The device is idle between the end of one stage that uses it and the beginning of the next.
"""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from daemon.cli.demo import SAMPLES
from daemon.cli.sandbox import Sandbox, SandboxFailed
from daemon.config.settings import Settings
from daemon.intake.submit import copy_in

ON_DEVICE = ("encode", "denoise", "decode")
_VARIABLE = "I2VD_TIMELINE"
_PATIENCE = 600.0
_SETTINGS = "[[inbox]]\nsettle = 0.5\n"
_RULE = '[make]\nprompt = "camera panning right"\npreset = "{preset}"\n'


@dataclass(frozen=True)
class Stretch:
    """A stage of one clip, from `begin` to `end` in seconds."""

    job: str
    stage: str
    begin: float
    end: float


@dataclass(frozen=True)
class Start:
    """Seconds from a worker's beginning until so far was done."""

    libraries: float
    model: float
    first_step: float


@dataclass(frozen=True)
class Wait:
    """Seconds of the device on one clip, and without work from there to the next clip."""

    job: str
    busy: float
    idle: float


@dataclass(frozen=True)
class Timeline:
    """A worker's start with empty caches, the next one's, and how the device of that one waited."""

    starts: tuple[Start, Start]
    waits: list[Wait]
    trace: Path
    """The second worker's, as a Chrome trace."""

    def as_json(self) -> str:
        """Without the trace."""
        told = asdict(self)
        del told["trace"]
        return json.dumps(told, indent=2)


def measure(folder: Path, clips: int, preset: str, settings: Settings) -> Timeline:
    """Make one clip in an empty folder, and `clips` by a new daemon. Raises SandboxFailed.

    Model and gate are those of `settings`.
    """
    rule = _RULE.format(preset=preset)
    first = _record(folder, "first", range(1), rule, settings)
    second = _record(folder, "second", range(1, 1 + clips), rule, settings)
    starts = (start(first), start(second))
    return Timeline(starts, waits(stretches(second)), second)


def _record(folder: Path, name: str, numbers: range, rule: str, settings: Settings) -> Path:
    """The trace of a daemon that makes these clips, the first of all being 0."""
    trace = folder / f"{name}.json"
    environment = {
        _VARIABLE: str(trace.resolve()),
        "I2VD_MODEL": settings.model.model_dump_json(),
        "I2VD_GATE": settings.gate.model_dump_json(),
    }
    with Sandbox(folder, environment=environment, ends_with_parent=True) as daemon:
        daemon.settings(_SETTINGS)
        daemon.rule("90-bench", rule)
        daemon.start()
        samples = sorted(SAMPLES.glob("*.jpg"))
        for number in numbers:
            with samples[number % len(samples)].open("rb") as content:
                copy_in(content, f"{number:03}.jpg", daemon.inbox)
        _wait_for(daemon, numbers.stop)
    with trace.open("a", encoding="utf-8") as file:
        file.write("{}]\n")
    return trace


def _wait_for(daemon: Sandbox, clips: int) -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and daemon.running:
        jobs = daemon.http.get("/api/status").json()["jobs"]
        if jobs["failed"]:
            raise SandboxFailed("a clip failed; see daemon.log")
        if jobs["done"] >= clips:
            return
        time.sleep(0.5)
    raise SandboxFailed(f"{clips} clips were not made within {_PATIENCE:.0f} s; see daemon.log")


def _events(trace: Path) -> list[dict[str, Any]]:
    return [event for event in json.loads(trace.read_text(encoding="utf-8")) if event]


def start(trace: Path) -> Start:
    """How soon its first worker had libraries, model and a clip's first step."""
    first: dict[str, dict[str, Any]] = {}
    for event in _events(trace):
        first.setdefault(event["name"], event)
    begin = first["start"]["ts"]
    done = (first[what]["ts"] + first[what]["dur"] for what in ("start", "load", "step"))
    return Start(*((end - begin) / 1e6 for end in done))


def stretches(trace: Path) -> list[Stretch]:
    """All stages of all clips, in the order of their beginnings."""
    found = [
        Stretch(e["args"]["job"], e["name"], e["ts"] / 1e6, (e["ts"] + e["dur"]) / 1e6)
        for e in _events(trace)
        if e["args"]["job"] and e["name"] != "step"
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


def show(timeline: Timeline, console: Console) -> None:
    """Two tables; the share of all waits in the last line."""
    table = Table("worker", "has its libraries", "its model", "done a step", box=None)
    for which, each in zip(("first", "second"), timeline.starts, strict=True):
        table.add_row(which, *(f"after {seconds:.1f} s" for seconds in asdict(each).values()))
    console.print(table)
    table = Table("clip", "device at work", "then idle", "share", box=None)
    for wait in timeline.waits:
        table.add_row(wait.job, f"{wait.busy:.3f} s", f"{wait.idle * 1e3:.0f} ms", _share([wait]))
    table.add_row("all", *_sums(timeline.waits), _share(timeline.waits), style="bold")
    console.print(table)


def _sums(found: Sequence[Wait]) -> tuple[str, str]:
    return f"{sum(w.busy for w in found):.3f} s", f"{sum(w.idle for w in found) * 1e3:.0f} ms"


def _share(found: Sequence[Wait]) -> str:
    idle, busy = sum(w.idle for w in found), sum(w.busy for w in found)
    return f"{idle / (idle + busy):.2%}" if found else ""


def keep(trace: Path, place: Path) -> None:
    """Put the trace where it was asked for."""
    shutil.copyfile(trace, place)
