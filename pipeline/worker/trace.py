"""Trace of the worker's stages and steps, as a Chrome trace (chrome://tracing, Perfetto).

Written only if the variable I2VD_TIMELINE names a file, one event a line. `i2vd bench timeline`
reads it. The format is Catapult's "Trace Event Format". Its closing bracket is optional, so that
the trace of a killed worker is readable.
"""

import json
import os
import threading
import time
from pathlib import Path

VARIABLE = "I2VD_TIMELINE"


def now() -> float:
    """Return the seconds of the monotonic clock, which all processes of the machine share."""
    return time.monotonic()


def note(name: str, job: str, since: float) -> None:
    """Append an event that began at `since` (from `now`) and ends now."""
    if not (path := os.environ.get(VARIABLE)):
        return
    event = {
        "name": name,
        "ph": "X",
        "ts": round(since * 1e6),
        "dur": round((now() - since) * 1e6),
        "pid": os.getpid(),
        "tid": threading.get_native_id(),
        "args": {"job": job},
    }
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(("" if file.tell() else "[\n") + json.dumps(event) + ",\n")
