"""The real daemon, modified by environment variables: `python -m tests.chaos.launch run`.

PEER_FILM: `tests.pipeline.peer` replaces the worker and returns this clip after 0.1 seconds.
CHAOS_THREADS: number of threads; with one the order of the system calls is fixed.
CHAOS_METHOD: commit method of clips, instead of the one that the folder supports.
CHAOS_QUICK: seconds after which a slow picture no longer delays the others.
CHAOS_SKIPPED: seconds, instead of a minute, after which skipped files are listed and empty folders
    are removed.
CHAOS_LOOKS: file that gets a line for each scan of an inbox: monotonic time, number of pictures.
"""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import daemon.app
import daemon.dispatch.outcome
import daemon.intake.empty_folders
import daemon.intake.skipped
import daemon.intake.watcher
import daemon.storage.folder_threads
import pipeline.children.image_pool
from daemon.__main__ import main
from daemon.fs.atomic import CommitMethod
from daemon.intake.scanner import Scan, scan

if threads := os.environ.get("CHAOS_THREADS"):

    class Bounded(daemon.app.App):
        async def run(self) -> None:
            executor = ThreadPoolExecutor(int(threads))
            asyncio.get_running_loop().set_default_executor(executor)
            start = lambda _, work: executor.submit(work)  # noqa: E731
            daemon.storage.folder_threads._start_thread = start
            await super().run()

    daemon.app.App = Bounded  # type: ignore[misc]

if method := os.environ.get("CHAOS_METHOD"):
    daemon.dispatch.outcome.probe_commit_method = lambda _: CommitMethod(method)

if quick := os.environ.get("CHAOS_QUICK"):
    pipeline.children.image_pool._FAST_TIMEOUT_SECONDS = float(quick)

if looks := os.environ.get("CHAOS_LOOKS"):

    def _scan_and_record(root: Path, recursive: bool) -> Scan:
        found = scan(root, recursive)
        with Path(looks).open("a", encoding="utf-8") as file:
            file.write(f"{time.monotonic()} {len(found.pictures)}\n")
        return found

    daemon.intake.watcher.scan = _scan_and_record

if seconds := os.environ.get("CHAOS_SKIPPED"):
    daemon.intake.skipped.REPORT_AFTER_SECONDS = float(seconds)
    daemon.intake.empty_folders.MIN_AGE_SECONDS = float(seconds)

if "PEER_FILM" in os.environ:
    daemon.app.ClipGenerator = partial(daemon.app.ClipGenerator, module="tests.pipeline.peer")  # type: ignore[misc]

main()
