"""Cost of the daemon process, without its children: `python -m tests.bench.daemon`.

Seconds from exec to READY, resident memory, and idle CPU share. Run it on a quiet machine.
"""

import os
import re
import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.head import head
from tests.system.studio import Studio, picture

STARTS = 5
CLIPS = 3
IDLE = 20.0
ARCHIVED = 10_000

_TICK = os.sysconf("SC_CLK_TCK")


class Notified(Studio):
    """A studio that receives its daemon's systemd notifications."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.settings('[model]\ndevices = ["cpu"]\n')  # all other settings are defaults
        path = root / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.environment["NOTIFY_SOCKET"] = str(path)
        self._ready = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def seconds_to_ready(self) -> float:
        """Start the daemon and return the seconds until READY=1."""
        self._ready.clear()
        began = time.perf_counter()
        self.start(ready=False)
        if not self._ready.wait(60):
            raise TimeoutError(self.log_tail())
        return time.perf_counter() - began

    def _listen(self) -> None:
        while True:
            if b"READY=1" in self._socket.recv(4096):
                self._ready.set()


def resident(pid: int) -> float:
    """Return the resident memory of one process in MB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024 / 1e6


def spent(pid: int) -> float:
    """Return the CPU seconds that one process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def idle(studio: Studio) -> tuple[float, float]:
    """Return the idle CPU share of the daemon and of its children."""
    daemon, children = studio.pid, [p for p in studio.processes() if p != studio.pid]
    before = spent(daemon), sum(map(spent, children))
    time.sleep(IDLE)
    after = spent(daemon), sum(map(spent, children))
    return (after[0] - before[0]) / IDLE, (after[1] - before[1]) / IDLE


def main() -> None:
    """Measure and print."""
    table = Table("what", "measured", "aim", box=None)
    with tempfile.TemporaryDirectory(prefix="i2vd-bench-") as folder:
        studio = Notified(Path(folder) / "studio")
        try:
            _measure(studio, table)
        finally:
            studio.close()
    console = Console()
    console.print(head("python -m tests.bench.daemon"))
    console.print(table)


def _measure(studio: Notified, table: Table) -> None:
    starts = []
    for number in range(STARTS):
        if number:
            studio.stop()
        starts.append(studio.seconds_to_ready())
    values = ", ".join(f"{seconds:.2f}" for seconds in starts)
    table.add_row("exec to READY", f"{statistics.median(starts):.2f} s ({values})", "under 2 s")
    table.add_row("memory after READY", f"{resident(studio.pid):.0f} MB", "under 150 MB")
    _idle_row(studio, table, "idle, before any clip")
    for number in range(CLIPS):
        studio.drop(f"{number}.png", picture(number))
        studio.until_settled(f"{number}.png", "done")
    table.add_row(f"memory after {CLIPS} clips", f"{resident(studio.pid):.0f} MB", "under 150 MB")
    _idle_row(studio, table, f"idle, {CLIPS} archived")
    for number in range(ARCHIVED):
        (studio.archive / f"old-{number}.png").touch()
    _idle_row(studio, table, f"idle, {ARCHIVED} more archived")
    for number in range(ARCHIVED):
        (studio.inbox / f"{number}.txt").touch()
    time.sleep(5)  # until their inotify events are handled
    _idle_row(studio, table, f"idle, {ARCHIVED} other files in the inbox")


def _idle_row(studio: Studio, table: Table, what: str) -> None:
    daemon, children = idle(studio)
    table.add_row(what, f"{daemon:.2%} of a core, its children {children:.2%}", "under 1 %")


if __name__ == "__main__":
    main()
