"""Minimal scripts that watch a folder, as processes; arrival.py compares the daemon with them.

Each prints the path of every new file below the folder.
"""

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Self

_WATCHDOG = """
import sys, time
from watchdog.events import FileSystemEventHandler
from watchdog.observers import Observer

class Printer(FileSystemEventHandler):
    def on_created(self, event):
        print(event.src_path, flush=True)

observer = Observer()
observer.schedule(Printer(), sys.argv[1], recursive=True)
observer.start()
while True:
    time.sleep(1)
"""
_WATCHFILES = """
import sys
from watchfiles import Change, watch

for changes in watch(sys.argv[1]):
    for change, path in changes:
        if change is Change.added:
            print(path, flush=True)
"""
SCRIPTS = {"watchdog": _WATCHDOG, "watchfiles": _WATCHFILES}


class Output:
    """File names that a script has printed, with the time of the first print."""

    def __init__(self, output: IO[str]) -> None:
        self._times: dict[str, float] = {}
        threading.Thread(target=self._listen, args=[output], daemon=True).start()

    def has(self, name: str) -> bool:
        """Return True if the name was printed."""
        return name in self._times

    def until(self, names: set[str], seconds: float = 120) -> float:
        """Wait for all names and return the monotonic time of the last one."""
        end = time.monotonic() + seconds
        while not names <= self._times.keys():
            if time.monotonic() > end:
                raise TimeoutError(f"{len(names - self._times.keys())} names never came")
            time.sleep(0.01)
        return max(self._times[name] for name in names)

    def _listen(self, output: IO[str]) -> None:
        for line in output:
            self._times.setdefault(Path(line.rstrip("\n")).name, time.monotonic())


class Script:
    """A process of one of SCRIPTS that watches a folder; a context manager."""

    def __init__(self, program: str, folder: Path) -> None:
        self.folder = folder
        self.output: Output
        self._program = program
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        """Process id of the script."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the script and wait until it reports new files."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", SCRIPTS[self._program], self.folder],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.output = Output(self._process.stdout)
        for number in range(600):
            probe = self.folder / f"probe-{self._program}-{number}"
            probe.touch()
            time.sleep(0.1)
            probe.unlink()
            if any(self.output.has(f"probe-{self._program}-{n}") for n in range(number + 1)):
                return
            if self._process.poll() is not None:
                raise RuntimeError(f"the script with {self._program} ended; is it installed?")
        raise TimeoutError(f"the script with {self._program} tells nothing")

    def stop(self) -> None:
        """Stop the script."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
