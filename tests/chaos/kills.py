"""Random kills: SIGKILL to processes of a studio."""

import contextlib
import os
import random
import signal

from tests.system.studio import Studio

VICTIMS = {"daemon": 5, "worker": 2, "picture": 2, "all": 2, "term": 1}
"""Victims and their weights; "term" is a SIGTERM to the daemon."""


def kill(studio: Studio, victim: str) -> bool:
    """Kill the victim's processes. Return False if there are none."""
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
    """Return a random victim."""
    return rng.choices([*VICTIMS], [*VICTIMS.values()])[0]
