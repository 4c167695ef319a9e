"""The real daemon, changed a little by variables: `python -m tests.chaos.launch run`.

With PEER_FILM `tests.pipeline.peer` takes the worker's place, so that a clip costs a tenth of a
second. CHAOS_THREADS bounds the threads (with one, the order of the system calls is always the
same), CHAOS_METHOD is how clips get their names, in place of what the folder can do. CHAOS_QUICK is
the seconds for which one picture may hold up the others. After each look at an inbox CHAOS_LOOKS, a
file, gets a line: the monotonic time, and the number of pictures.
"""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import daemon.app
import daemon.dispatch.outcome
import daemon.intake.watcher
import pipeline.children.image_pool
from daemon.__main__ import main
from daemon.fs.atomic import CommitMethod
from daemon.fs.fingerprint import FileState
from daemon.intake.scanner import scan

if threads := os.environ.get("CHAOS_THREADS"):

    class Bounded(daemon.app.App):
        async def run(self) -> None:
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(int(threads)))
            await super().run()

    daemon.app.App = Bounded  # type: ignore[misc]

if method := os.environ.get("CHAOS_METHOD"):
    daemon.dispatch.outcome.probe_commit_method = lambda _: CommitMethod(method)

if quick := os.environ.get("CHAOS_QUICK"):
    pipeline.children.image_pool._QUICK_SECONDS = float(quick)

if looks := os.environ.get("CHAOS_LOOKS"):

    def _recorded(root: Path, recursive: bool) -> dict[str, FileState]:
        found = scan(root, recursive)
        with Path(looks).open("a", encoding="utf-8") as file:
            file.write(f"{time.monotonic()} {len(found)}\n")
        return found

    daemon.intake.watcher.scan = _recorded

if "PEER_FILM" in os.environ:
    daemon.app.ClipGenerator = partial(daemon.app.ClipGenerator, module="tests.pipeline.peer")  # type: ignore[misc]

main()
