"""`i2vd bench timeline`: a worker's start-up time, and the device's idle time between clips.

A real daemon with the configured model makes several clips, and the worker records a trace. The
device is idle between the end of one stage that uses it and the start of the next.
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

ON_DEVICE = ("condition", "denoise", "decode")
_VARIABLE = "I2VD_TIMELINE"
_TIMEOUT_SECONDS = 600.0
_SETTINGS = "[[inbox]]\nstability_delay = 0.5\n"
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
    """Seconds from a worker's start until each milestone."""

    libraries: float
    model: float
    first_step: float


@dataclass(frozen=True)
class Wait:
    """Busy seconds of the device on one clip, and idle seconds before the next clip."""

    job: str
    busy: float
    idle: float


@dataclass(frozen=True)
class Timeline:
    """Start-up with cold and with warm caches, and the idle times of the second worker's device."""

    starts: tuple[Start, Start]
    waits: list[Wait]
    trace: Path
    """Trace of the second worker, in Chrome's format."""

    def as_json(self) -> str:
        """Return the result as JSON, without the trace."""
        result = asdict(self)
        del result["trace"]
        return json.dumps(result, indent=2)


def measure(folder: Path, clips: int, preset: str, settings: Settings) -> Timeline:
    """Make one clip in an empty folder, then `clips` with a new daemon. Raises SandboxFailed.

    Model and gate are those of `settings`.
    """
    rule = _RULE.format(preset=preset)
    first = _record(folder, "first", range(1), rule, settings)
    second = _record(folder, "second", range(1, 1 + clips), rule, settings)
    starts = (start(first), start(second))
    return Timeline(starts, waits(stretches(second)), second)


def _record(folder: Path, name: str, numbers: range, rule: str, settings: Settings) -> Path:
    """Run a daemon that makes the clips with these numbers, and return its trace."""
    trace = folder / f"{name}.json"
    environment = {
        _VARIABLE: str(trace.resolve()),
        "I2VD_MODEL": settings.model.model_dump_json(),
        "I2VD_QUALITY": settings.quality.model_dump_json(),
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
    end = time.monotonic() + _TIMEOUT_SECONDS
    while time.monotonic() < end and daemon.running:
        jobs = daemon.http.get("/api/status").json()["jobs"]
        if jobs["failed"]:
            raise SandboxFailed("a clip failed; see daemon.log")
        if jobs["done"] >= clips:
            return
        time.sleep(0.5)
    raise SandboxFailed(
        f"{clips} clips were not made within {_TIMEOUT_SECONDS:.0f} s; see daemon.log"
    )


def _events(trace: Path) -> list[dict[str, Any]]:
    return [event for event in json.loads(trace.read_text(encoding="utf-8")) if event]


def start(trace: Path) -> Start:
    """Return when the first worker had its libraries, its model and the first step of a clip."""
    first: dict[str, dict[str, Any]] = {}
    for event in _events(trace):
        first.setdefault(event["name"], event)
    begin = first["start"]["ts"]
    done = (first[name]["ts"] + first[name]["dur"] for name in ("start", "load", "step"))
    return Start(*((end - begin) / 1e6 for end in done))


def stretches(trace: Path) -> list[Stretch]:
    """Return the stages of all clips, by start time."""
    found = [
        Stretch(e["args"]["job"], e["name"], e["ts"] / 1e6, (e["ts"] + e["dur"]) / 1e6)
        for e in _events(trace)
        if e["args"]["job"] and e["name"] != "step"
    ]
    return sorted(found, key=lambda each: each.begin)


def waits(timeline: Sequence[Stretch]) -> list[Wait]:
    """Return the busy and idle time of the device for each clip but the last."""
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
    """Print two tables; the last line is the total idle share."""
    table = Table("worker", "has its libraries", "its model", "done a step", box=None)
    for which, each in zip(("first", "second"), timeline.starts, strict=True):
        table.add_row(which, *(f"after {seconds:.1f} s" for seconds in asdict(each).values()))
    console.print(table)
    table = Table("clip", "device at work", "then idle", "share", box=None)
    for wait in timeline.waits:
        table.add_row(
            wait.job, f"{wait.busy:.3f} s", f"{wait.idle * 1e3:.0f} ms", _format_share([wait])
        )
    table.add_row("all", *_format_sums(timeline.waits), _format_share(timeline.waits), style="bold")
    console.print(table)


def _format_sums(found: Sequence[Wait]) -> tuple[str, str]:
    return f"{sum(w.busy for w in found):.3f} s", f"{sum(w.idle for w in found) * 1e3:.0f} ms"


def _format_share(found: Sequence[Wait]) -> str:
    idle, busy = sum(w.idle for w in found), sum(w.busy for w in found)
    return f"{idle / (idle + busy):.2%}" if found else ""


def save_trace(trace: Path, target: Path) -> None:
    """Copy the trace to `target`."""
    shutil.copyfile(trace, target)
