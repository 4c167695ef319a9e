"""A studio: the real daemon as a process, in folders of its own, as a test sees it from outside.

Nothing here reaches into the daemon: pictures go in by the inbox, what comes of them is read from
the outbox, the API, the metrics, the log and the kernel's list of processes.
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
PATIENCE = 120.0
"""Seconds after which something that should happen is taken for never happening."""

SIDE = 32
"""Of a clip in pixels; the preset's 48 would take twice the time."""

DRAFT = f"""\
[make]
prompt = "camera zooming in slowly"
preset = "draft"
size = {SIDE}
"""
"""The default rule of a studio: about a second of work on one core."""

SLOW = f"""\
[match]
names = ["slow*"]

[make]
prompt = "camera panning right"
preset = "draft"
size = {SIDE}
steps = 60
"""
"""A rule whose clips take long enough to be interrupted."""

_SETTINGS = """\
min_free = "{min_free}"
scan_interval = 0.2
stop_grace = {stop_grace}

[queue]
tries = {tries}
backoff = 0.1

[model]
devices = ["cpu"]

[[inbox]]
settle = 0.2
patience = 3.0
"""

T = TypeVar("T")


class Studio(Sandbox):
    """A sandbox as a test sees it: pictures go in, and what comes of them is read."""

    start_seconds = stop_seconds = PATIENCE

    def __init__(
        self,
        root: Path,
        *,
        bare: bool = False,
        stop_grace: float = 60.0,
        tries: int = 3,
        min_free: str = "0B",
        program: str = "daemon",
        prefix: Sequence[str] = (),
        timeout: float = 30.0,
        **environment: str,
    ) -> None:
        """`bare`: an empty folder. The other parameters are those of Sandbox or settings."""
        own = {"PYTHONPATH": str(ROOT), "STUDIO": str(root), "I2VD_TORCH_THREADS": "1"}
        super().__init__(
            root, program=program, prefix=prefix, environment=own | environment, cwd=root,
            timeout=timeout,
        )  # fmt: skip
        if not bare:
            self.settings(_SETTINGS.format(stop_grace=stop_grace, tries=tries, min_free=min_free))
            self.inbox.mkdir()
            self.rule("90-default", DRAFT)

    # --- the process

    def close(self) -> None:
        """Kill the daemon and its children, also those that an earlier daemon left."""
        try:
            super().close()
        finally:
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def processes(self, module: str = "") -> list[int]:
        """Every process of this studio, found by its environment; with `module` those running it.

        Children of a daemon that was killed are found too.
        """
        mark = f"STUDIO={self.root}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (folder / "cmdline").read_bytes().split(b"\0")
                if mark in (folder / "environ").read_bytes().split(b"\0") and (
                    not module or module.encode() in command
                ):
                    found.append(int(folder.name))
        return found

    def command(
        self, *arguments: str | Path, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `i2vd ARGUMENTS` here to its end."""
        return subprocess.run(
            [sys.executable, "-m", "daemon", *map(str, arguments)],
            cwd=self.root,
            env=self.variables() | {"COLUMNS": "200"} | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def variables(self) -> dict[str, str]:
        """Environment of the daemon, without the cache of a worker in this process."""
        found = super().variables()
        kept = {k: v for k, v in found.items() if k != "TRITON_CACHE_DIR"}
        return kept | self.environment

    # --- what a user does

    def drop(self, name: str, content: bytes, *, folder: Path | None = None) -> Path:
        """A picture appears in the inbox, whole at once."""
        place = (folder or self.inbox) / name
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f".{os.urandom(8).hex()}.part")
        part.write_bytes(content)
        return part.rename(place)

    # --- what a user sees

    def get(self, path: str, /, **params: Any) -> Any:
        """The API's answer to a question."""
        try:
            answer = self.http.get(path, params=params)
        except httpx2.TransportError as error:
            raise AssertionError(f"GET {path}: {error}\n{self.log_tail()}") from None
        assert answer.is_success, f"GET {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def post(self, path: str) -> httpx2.Response:
        """The API's answer to a command."""
        return self.http.post(path)

    def request(self, method: str, path: str, **headers: str) -> httpx2.Response:
        """Any request, with any headers."""
        return self.http.request(method, path, headers=headers)

    def jobs(self, path: str | None = None) -> list[dict[str, Any]]:
        """The jobs, oldest first; with `path` those of one place in the inbox."""
        found = reversed(self.get("/api/jobs", limit=1000))
        return [job for job in found if path is None or job["path"] == path]

    def job(self, path: str) -> dict[str, Any]:
        """The one job of a place in the inbox."""
        (found,) = self.jobs(path)
        return found

    def events(self, job: int) -> list[str]:
        """What happened to a job, in a word each."""
        return [each["event"] for each in self.get(f"/api/jobs/{job}/events")]

    def slot(self) -> dict[str, Any]:
        """What the one device is doing."""
        (slot,) = self.get("/api/status")["slots"]
        return slot

    def clips(self) -> list[str]:
        """The clips in the outbox, by their paths there."""
        return sorted(str(p.relative_to(self.outbox)) for p in visible(self.outbox, "*.mp4"))

    def sidecar(self, clip: str) -> dict[str, Any]:
        """What stands beside a clip."""
        return json.loads((self.outbox / f"{clip}.json").read_text(encoding="utf-8"))

    def reason(self, picture: str) -> str:
        """What stands beside a picture in the failed folder."""
        text = (self.failed / f"{picture}.reason.json").read_text(encoding="utf-8")
        return "; ".join(each["reason"] for each in json.loads(text))

    def staging(self) -> list[str]:
        """What lies in the outbox's staging folder."""
        return sorted(p.name for p in (self.outbox / ".i2vd").glob("*-*"))

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of a metric that have these labels."""
        text = self.http.get("/metrics").text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def log(self) -> list[dict[str, Any]]:
        """The daemon's log: every line must be one JSON object."""
        return [json.loads(line) for line in self.log_file.read_bytes().splitlines()]

    def told(self, job: int) -> list[str]:
        """The changes of state of a job, as the log tells them."""
        lines = [line for line in self.log() if line.get("job") == job]
        return [line["event"] for line in lines if line["event"] != "model loaded"]

    # --- waiting

    def until(self, ask: Callable[[], T | None], what: str, seconds: float = PATIENCE) -> T:
        """Wait until the answer is true, and give it. Fails at once when the daemon has ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if answer := ask():
                return answer
            if (code := self.exit_code()) is not None:
                raise AssertionError(
                    f"the daemon ended with {code}; waited until {what}\n{self.log_tail()}"
                )
            time.sleep(0.05)
        raise AssertionError(f"never came to pass: {what}\n{self.log_tail()}")

    def until_state(self, path: str, *states: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until so many jobs of a picture are in one of these states."""

        def there() -> list[dict[str, Any]]:
            found = [job for job in self.jobs(path) if job["state"] in states]
            return found if len(found) >= count else []

        return self.until(there, f"{count} job(s) of {path} {' or '.join(states)}")

    def until_settled(self, path: str, *states: str, count: int = 1) -> list[dict[str, Any]]:
        """The same, and the picture has left the inbox."""
        self.until_state(path, *states, count=count)
        self.until(lambda: not (self.inbox / path).exists(), f"{path} has left the inbox")

        def told() -> list[dict[str, Any]]:
            found = [job for job in self.jobs(path) if job["state"] in states]
            return found if all(job["picture_location"] != "inbox" for job in found) else []

        return self.until(told, f"the ledger knows where {path} is")

    def until_denoising(self, path: str) -> dict[str, Any]:
        """Wait until the worker is in the middle of a picture's clip; the slot then."""

        def at_it() -> dict[str, Any] | None:
            slot = self.slot()
            progress = slot["progress"] or {}
            denoising = progress.get("stage") == "denoise" and progress["step"] >= 2
            return slot if slot["path"] == path and denoising else None

        return self.until(at_it, f"the worker is denoising {path}")


def visible(folder: Path, glob: str) -> Iterator[Path]:
    """Files and folders below a folder that a user sees, also while it changes."""
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in fnmatch.filter([*folders, *files], glob):
            if not name.startswith("."):
                yield Path(where, name)


def names(folder: Path) -> list[str]:
    """Of files and folders right in a folder, as a user sees them."""
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def picture(seed: int = 0, size: tuple[int, int] = (96, 96), form: str = "PNG") -> bytes:
    """A drawing with large shapes, another one for each seed, the same for the same."""
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
