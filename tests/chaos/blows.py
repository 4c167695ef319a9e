"""Blows: SIGKILL to the processes of a studio, at any moment."""

import contextlib
import os
import random
import signal

from tests.system.studio import Studio

VICTIMS = {"daemon": 5, "worker": 2, "picture": 2, "all": 2, "term": 1}
"""Who is hit, and how often; "term" is a SIGTERM to the daemon."""


def strike(studio: Studio, victim: str) -> bool:
    """Hit; False when there was nobody to hit."""
    if victim == "term":
        studio.signal(signal.SIGTERM)
        return True
    pids = {
        "daemon": [studio.pid],
        "worker": studio.processes("tests.pipeline.peer") + studio.processes("pipeline.worker"),
        "picture": studio.processes("pipeline.image"),
        "all": studio.processes(),
    }[victim]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(pids)


def choose(rng: random.Random) -> str:
    """A victim."""
    return rng.choices([*VICTIMS], [*VICTIMS.values()])[0]
