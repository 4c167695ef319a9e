"""`i2vd demo`: the real daemon on the embedded model, in a folder of its own, with samples dropped.

Everything goes the way that a user's pictures go; this file only drops them and looks on.
"""

import contextlib
import ctypes
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from daemon.folders import RULES
from daemon.printable import escape
from daemon.submit import copy_in

SAMPLES = Path(__file__).parent / "samples"
_PATIENCE = 300.0
_PR_SET_PDEATHSIG = 1

_SETTINGS = """\
# Written by `i2vd demo`: the embedded defaults, on a port of its own.
[http]
listen = "127.0.0.1:{port}"

[[inbox]]
settle = 0.5
"""


class DemoFailed(Exception):
    """The demonstration did not come to its end; the message says why."""


def demonstrate(folder: Path, console: Console) -> None:
    """Run it. Raises DemoFailed."""
    (folder / "inbox").mkdir(parents=True, exist_ok=True)
    if not (folder / "rules").exists():
        shutil.copytree(RULES / "demo", folder / "rules")
    port = _free_port()
    config = folder / "i2vd.toml"
    config.write_text(_SETTINGS.format(port=port), encoding="utf-8")
    console.print(f"starting [bold]i2vd run[/] in {escape(str(folder))}/ ...")
    with _daemon(config, folder / "daemon.log") as daemon:
        api = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False)
        _wait_until_ready(api, daemon, folder)
        known = {job["id"] for job in api.get("/api/jobs").json()}
        dropped = [_drop(sample, folder / "inbox") for sample in sorted(SAMPLES.glob("*.jpg"))]
        names = ", ".join(picture.name for picture in dropped)
        console.print(f"dropped into {escape(str(folder))}/inbox/: [bold]{escape(names)}[/]")
        jobs = _look_on(api, daemon, known, len(dropped), console)
    console.print(_table(jobs))
    failed = [job for job in jobs if job["state"] != "done"]
    if failed:
        raise DemoFailed("; ".join(f"{job['path']}: {job['error']}" for job in failed))
    console.print(
        f"clips and sidecars: {escape(str(folder))}/outbox/   pictures: "
        f"{escape(str(folder))}/archive/   log: {escape(str(folder))}/daemon.log\n"
        f"go on by hand: [bold]{_command()} run --config {escape(str(config))}[/], then drop a "
        f"picture into {escape(str(folder))}/inbox/",
        soft_wrap=True,
    )


def _drop(sample: Path, inbox: Path) -> Path:
    with sample.open("rb") as content:
        return copy_in(content, sample.name, inbox)


def _command() -> str:
    """How to call i2vd from here: it may not be in the PATH."""
    beside = Path(sys.executable).with_name("i2vd")
    return str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside)


@contextlib.contextmanager
def _daemon(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The daemon as a process of its own, stopped as systemd would stop it."""
    with log.open("ab") as out:
        command = [sys.executable, "-m", "daemon", "run", "--config", str(config)]
        daemon = subprocess.Popen(
            command,
            stderr=out,
            stdout=out,
            stdin=subprocess.DEVNULL,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 (no other thread runs yet)
        )
    try:
        yield daemon
    finally:
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(60)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _end_with_parent() -> None:
    """However the demonstration ends, its daemon shall not stay (prctl(2), Linux only)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _wait_until_ready(api: httpx.Client, daemon: subprocess.Popen[bytes], folder: Path) -> None:
    for _ in range(600):
        with contextlib.suppress(httpx.TransportError):
            if api.get("/readyz").status_code == 200:
                return
        if daemon.poll() is not None:
            break
        time.sleep(0.1)
    last = (folder / "daemon.log").read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
    raise DemoFailed("the daemon did not get ready:\n" + "\n".join(last))


def _look_on(
    api: httpx.Client,
    daemon: subprocess.Popen[bytes],
    known: set[int],
    wanted: int,
    console: Console,
) -> list[dict[str, Any]]:
    """Show the progress until every dropped picture has its end; the jobs, oldest first."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"))
    end = time.monotonic() + _PATIENCE
    bars: dict[int, TaskID] = {}
    with Progress(*columns, console=console) as progress:
        waiting = progress.add_task("waiting for the files to settle", total=None, told="")
        while time.monotonic() < end and daemon.poll() is None:
            jobs = [job for job in api.get("/api/jobs").json() if job["id"] not in known]
            for job in sorted(jobs, key=lambda job: int(job["id"])):
                progress.update(waiting, visible=False)
                if job["id"] not in bars:
                    bars[job["id"]] = progress.add_task(
                        f"{escape(job['path']):14}", total=None, told=""
                    )
                progress.update(bars[job["id"]], **_told(job))
            over = [job for job in jobs if job["state"] in ("done", "failed", "cancelled")]
            if len(over) >= wanted:
                return sorted(over, key=lambda job: int(job["id"]))
            time.sleep(0.3)
    raise DemoFailed(f"not all clips were made within {_PATIENCE:.0f} s; see daemon.log")


def _told(job: dict[str, Any]) -> dict[str, Any]:
    if job["state"] in ("done", "failed", "cancelled"):
        return {"completed": 1, "total": 1, "told": job["state"]}
    now = job["progress"]
    if not now:
        return {"told": job["state"]}
    eta = "" if now["eta"] is None else f", {now['eta']:.0f} s left"
    return {
        "completed": now["step"],
        "total": now["steps"],
        "told": f"{now['stage']} {now['step']}/{now['steps']}{eta}",
    }


def _table(jobs: list[dict[str, Any]]) -> Table:
    table = Table("clip", "rule", "prompt", "preset", "size", "frames", "seconds", box=None)
    for job in jobs:
        spec, result = job["spec"], job["result"]
        if not result or not spec:
            table.add_row(f"{escape(job['path'])}: {job['state']}")
            continue
        table.add_row(
            escape(Path(result["clip"]).name),
            job["rule"],
            escape(spec["prompt"]),
            spec["preset"],
            f"{result['width']}x{result['height']}",
            str(result["frames"]),
            f"{sum(result['seconds'].values()):.1f}",
        )
    return table
