"""Start-up time of workers and idle time of the device, in a real daemon with a full-size model.

The weights are random, so the quality check is off.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from daemon.cli.bench_timeline import stretches
from pipeline.quality import NO_LIMITS
from tests.published import save

Row = dict[str, Any]


def rows(model: str | None, device: str, presets: Sequence[str], clips: int) -> Iterator[Row]:
    """Yield the rows of each preset; without `model`, a full-size one is used."""
    with TemporaryDirectory() as folder:
        if model is None:
            save(Path(folder))
        for preset in presets:
            trace = Path(folder, f"{preset}.json")
            found = _timeline(model or folder, device, preset, clips, trace)
            for case, value in (*_cases(found), ("share embedded ahead", _prefetched_share(trace))):
                yield {"preset": preset, "case": case, "seconds or share": round(value, 4)}


def _timeline(model: str, device: str, preset: str, clips: int, trace: Path) -> Any:
    command = (sys.executable, "-m", "daemon", "bench", "timeline", "--json", "--preset", preset)
    setting = {"name": model, "devices": [device]}
    env = {"I2VD_MODEL": json.dumps(setting), "I2VD_QUALITY": NO_LIMITS.model_dump_json()}
    finished = subprocess.run(
        [*command, "--clips", str(clips), "--trace", trace],
        env=os.environ | env,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(finished.stdout)


def _cases(found: Any) -> Iterator[tuple[str, float]]:
    for which, start in zip(("first", "second"), found["starts"], strict=True):
        for until, seconds in start.items():
            yield f"{which} start, until {until.replace('_', ' ')}", seconds
    busy, idle = ([wait[what] for wait in found["waits"]] for what in ("busy", "idle"))
    yield "device at work, a clip", median(busy)
    yield "device idle, between two", median(idle)
    yield "share of all that is idle", sum(idle) / sum(idle + busy)


def _prefetched_share(trace: Path) -> float:
    """Return the share of clips, except the first, that were embedded before their turn."""
    timeline = stretches(trace)
    turns = {each.job: each.begin for each in timeline if each.stage == "condition"}
    ready = {each.job: each.end for each in timeline if each.stage == "embed"}
    return sum(ready[job] <= turns[job] for job in ready) / (len(turns) - 1)
