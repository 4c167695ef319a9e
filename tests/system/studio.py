"""Studio: the real daemon as a process in its own folders, for black-box tests.

Pictures go in through the inbox; results are read from the outbox, the API, the metrics, the log
and /proc. Nothing here accesses the daemon's internals.
"""

import contextlib
import fnmatch
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from PIL import Image, ImageDraw
from prometheus_client.parser import text_string_to_metric_families

from daemon.cli.sandbox import Sandbox

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 120.0
"""Limit for anything that a test waits for."""

SIDE = 32
"""Side of a clip in pixels; the preset's 48 would take twice the time."""

DRAFT = f"""\
[make]
prompt = "camera zooming in slowly"
preset = "draft"
size = {SIDE}
"""
"""Default rule: about one second of work on one core."""

SLOW = f"""\
[match]
names = ["slow*"]

[make]
prompt = "camera panning right"
preset = "draft"
size = {SIDE}
steps = 60
"""
"""Rule whose clips take long enough to be interrupted."""

_SETTINGS = """\
min_free = "{min_free}"
scan_interval = 0.2
stop_grace = {stop_grace}

[queue]
max_attempts = {max_attempts}
backoff = 0.1

[model]
devices = ["cpu"]

[[inbox]]
stability_delay = 0.2
unreadable_timeout = 3.0
"""

T = TypeVar("T")


class Studio(Sandbox):
    """A sandbox with methods to submit pictures and to observe the results."""

    start_seconds = stop_seconds = TIMEOUT_SECONDS

    def __init__(
        self,
        root: Path,
        *,
        bare: bool = False,
        stop_grace: float = 60.0,
        max_attempts: int = 3,
        min_free: str = "0B",
        program: str = "daemon",
        prefix: Sequence[str] = (),
        timeout: float = 30.0,
        **environment: str,
    ) -> None:
        """`bare`: no settings, inbox or rule. The others belong to Sandbox or are settings."""
        own = {"PYTHONPATH": str(ROOT), "STUDIO": str(root), "I2VD_TORCH_THREADS": "1"}
        super().__init__(
            root, program=program, prefix=prefix, environment=own | environment, cwd=root,
            timeout=timeout,
        )  # fmt: skip
        if not bare:
            self.settings(
                _SETTINGS.format(
                    stop_grace=stop_grace, max_attempts=max_attempts, min_free=min_free
                )
            )
            self.inbox.mkdir()
            self.rule("90-default", DRAFT)

    # --- the process

    def close(self) -> None:
        """Kill the daemon and its children, also those of an earlier daemon."""
        try:
            super().close()
        finally:
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def processes(self, module: str = "") -> list[int]:
        """Return the ids of this studio's processes, or of those that run `module`.

        They are found by their environment, so children of a killed daemon are included; a picture
        child, which has no such environment, as long as its daemon lives.
        """
        mark = f"STUDIO={self.root}".encode()
        found: dict[int, list[bytes]] = {}
        others: dict[int, tuple[int, list[bytes]]] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (folder / "cmdline").read_bytes().split(b"\0")
                if b"pipeline.image" in command:
                    parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                    others[int(folder.name)] = int(parent), command
                elif mark in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = command
        found |= {pid: command for pid, (parent, command) in others.items() if parent in found}
        return [pid for pid, command in found.items() if not module or module.encode() in command]

    def command(
        self, *arguments: str | Path, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `i2vd ARGUMENTS` in the studio's folder and return the result."""
        return subprocess.run(
            [sys.executable, "-m", "daemon", *map(str, arguments)],
            cwd=self.root,
            env=self.variables() | {"COLUMNS": "200"} | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )

    def variables(self) -> dict[str, str]:
        """Environment of the daemon, without this process's Triton cache."""
        found = super().variables()
        kept = {k: v for k, v in found.items() if k != "TRITON_CACHE_DIR"}
        return kept | self.environment

    # --- what a user does

    def drop(self, name: str, content: bytes, *, folder: Path | None = None) -> Path:
        """Write a picture into the inbox, atomically."""
        path = (folder or self.inbox) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{os.urandom(8).hex()}.part")
        part.write_bytes(content)
        return part.rename(path)

    # --- what a user sees

    def get(self, path: str, /, **params: Any) -> Any:
        """Send a GET request to the API and return the JSON response."""
        try:
            answer = self.http.get(path, params=params)
        except httpx2.TransportError as error:
            raise AssertionError(f"GET {path}: {error}\n{self.log_tail()}") from None
        assert answer.is_success, f"GET {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def post(self, path: str) -> httpx2.Response:
        """Send a POST request to the API and return the response."""
        return self.http.post(path)

    def request(self, method: str, path: str, **headers: str) -> httpx2.Response:
        """Send a request with any headers and return the response."""
        return self.http.request(method, path, headers=headers)

    def jobs(self, path: str | None = None) -> list[dict[str, Any]]:
        """Return the jobs, oldest first; with `path` only those of one picture."""
        found = reversed(self.get("/api/jobs", limit=1000))
        return [job for job in found if path is None or job["path"] == path]

    def job(self, path: str) -> dict[str, Any]:
        """Return the only job of a picture."""
        (found,) = self.jobs(path)
        return found

    def events(self, job: int) -> list[str]:
        """Return the names of a job's events."""
        return [each["event"] for each in self.get(f"/api/jobs/{job}/events")]

    def slot(self) -> dict[str, Any]:
        """Return the status of the only slot."""
        (slot,) = self.get("/api/status")["slots"]
        return slot

    def clips(self) -> list[str]:
        """Return the paths of all clips, relative to the outbox."""
        return sorted(str(p.relative_to(self.outbox)) for p in visible(self.outbox, "*.mp4"))

    def sidecar(self, clip: str) -> dict[str, Any]:
        """Return the sidecar of a clip."""
        return json.loads((self.outbox / f"{clip}.json").read_text(encoding="utf-8"))

    def reason(self, picture: str) -> str:
        """Return the reasons beside a picture in the failed folder."""
        text = (self.failed / f"{picture}.reason.json").read_text(encoding="utf-8")
        return "; ".join(each["reason"] for each in json.loads(text))

    def staging(self) -> list[str]:
        """Return the names in the outbox's staging folder."""
        return sorted(p.name for p in (self.outbox / ".i2vd").glob("*-*"))

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels."""
        text = self.http.get("/metrics").text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def log(self) -> list[dict[str, Any]]:
        """Return the daemon's log; every line must be a JSON object."""
        return [json.loads(line) for line in self.log_file.read_bytes().splitlines()]

    def logged_events(self, job: int) -> list[str]:
        """Return the log events of a job, except "model loaded" and what children print."""
        lines = [x for x in self.log() if x.get("job") == job and "child" not in x]
        return [line["event"] for line in lines if line["event"] != "model loaded"]

    # --- waiting

    def until(
        self, condition: Callable[[], T | None], what: str, seconds: float = TIMEOUT_SECONDS
    ) -> T:
        """Wait until the condition is true and return its value. Fails if the daemon ends."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := condition():
                return value
            if (code := self.exit_code()) is not None:
                raise AssertionError(
                    f"the daemon ended with {code}; waited until {what}\n{self.log_tail()}"
                )
            time.sleep(0.05)
        raise AssertionError(f"never came to pass: {what}\n{self.log_tail()}")

    def until_state(self, path: str, *states: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until `count` jobs of a picture are in one of these states, and return them."""

        def matching() -> list[dict[str, Any]]:
            found = [job for job in self.jobs(path) if job["state"] in states]
            return found if len(found) >= count else []

        return self.until(matching, f"{count} job(s) of {path} {' or '.join(states)}")

    def until_settled(self, path: str, *states: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait as `until_state` does, and until the picture has left the inbox."""
        self.until_state(path, *states, count=count)
        self.until(lambda: not (self.inbox / path).exists(), f"{path} has left the inbox")

        def moved() -> list[dict[str, Any]]:
            found = [job for job in self.jobs(path) if job["state"] in states]
            return found if all(job["picture_location"] != "inbox" for job in found) else []

        return self.until(moved, f"the queue knows where {path} is")

    def until_denoising(self, path: str) -> dict[str, Any]:
        """Wait until the worker denoises a picture's clip, and return the slot's status."""

        def denoising_slot() -> dict[str, Any] | None:
            slot = self.slot()
            progress = slot["progress"] or {}
            denoising = progress.get("stage") == "denoise" and progress["step"] >= 2
            return slot if slot["path"] == path and denoising else None

        return self.until(denoising_slot, f"the worker is denoising {path}")


def visible(folder: Path, glob: str) -> Iterator[Path]:
    """Yield files and folders below a folder, without hidden ones; tolerates changes meanwhile."""
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in fnmatch.filter([*folders, *files], glob):
            if not name.startswith("."):
                yield Path(where, name)


def names(folder: Path) -> list[str]:
    """Return the names in a folder, without hidden ones."""
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def picture(seed: int = 0, size: tuple[int, int] = (96, 96), form: str = "PNG") -> bytes:
    """Draw a picture with large shapes, determined by the seed."""
    width, height = size
    tones = [
        (97 * seed + 30, 61 * seed + 90, 151 * seed + 160),
        (53 * seed + 220, 197 * seed + 140, 29 * seed + 40),
        (181 * seed + 120, 83 * seed + 210, 67 * seed + 90),
    ]
    ground, shape, other = (tuple(64 + part % 160 for part in tone) for tone in tones)
    image = Image.new("RGB", size, ground)
    draw = ImageDraw.Draw(image)
    x, y = (37 * seed + 20) % (width // 2), (23 * seed + 10) % (height // 2)
    draw.ellipse((x, y, x + width // 2, y + height // 2), fill=shape)
    draw.rectangle((0, height * 3 // 4, width, height), fill=other)
    out = BytesIO()
    image.save(out, form)
    return out.getvalue()
