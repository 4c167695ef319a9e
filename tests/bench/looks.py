"""The daemon of tests.chaos.launch, which also tells its looks: `python -m tests.bench.looks run`.

After each look at an inbox a line in the file $LOOKS: the monotonic time, and how many pictures.
"""

import os
import runpy
import time
from pathlib import Path

import daemon.intake.watcher
from daemon.fs.fingerprint import FileState
from daemon.intake.scanner import scan


def _told(root: Path, recursive: bool) -> dict[str, FileState]:
    found = scan(root, recursive)
    with Path(os.environ["LOOKS"]).open("a", encoding="utf-8") as looks:
        looks.write(f"{time.monotonic()} {len(found)}\n")
    return found


daemon.intake.watcher.scan = _told

runpy.run_module("tests.chaos.launch", run_name="__main__")
