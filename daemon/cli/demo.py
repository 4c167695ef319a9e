"""`i2vd demo`: the real daemon with the embedded model, in its own folder, on sample pictures.

The samples take the same path as a user's pictures; this module submits them and shows progress.
"""

import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from daemon.cli.sandbox import Sandbox, SandboxFailed
from daemon.intake.submit import copy_in
from daemon.storage.folders import RULES
from daemon.telemetry.terminal import escape

SAMPLES = Path(__file__).parents[1] / "samples"
_TIMEOUT_SECONDS = 300.0
_SETTINGS = """\
# Written by `i2vd demo`: the embedded defaults, on a port of its own.
[http]
listen = "127.0.0.1:{port}"

[[inbox]]
stability_delay = 0.5
"""


def demonstrate(folder: Path, console: Console) -> None:
    """Run the demo in `folder`. Raises SandboxFailed."""
    console.print(f"starting [bold]i2vd run[/] in {escape(str(folder))}/ ...")
    with Sandbox(folder, ends_with_parent=True) as daemon:
        daemon.settings(_SETTINGS.format(port=daemon.port))
        if not daemon.rules.exists():
            shutil.copytree(RULES / "demo", daemon.rules)
        daemon.start()
        known = {job["id"] for job in daemon.http.get("/api/jobs").json()}
        submitted = [_submit(sample, daemon.inbox) for sample in sorted(SAMPLES.glob("*.jpg"))]
        names = ", ".join(picture.name for picture in submitted)
        console.print(f"dropped into {escape(str(folder))}/inbox/: [bold]{escape(names)}[/]")
        jobs = _wait_for_jobs(daemon, known, len(submitted), console)
    console.print(_table(jobs))
    config = escape(shlex.quote(str(daemon.config)))
    failed = [job for job in jobs if job["state"] != "done"]
    if failed:
        raise SandboxFailed("; ".join(f"{job['path']}: {job['error']}" for job in failed))
    console.print(
        f"clips and sidecars: {escape(str(folder))}/outbox/   pictures: "
        f"{escape(str(folder))}/archive/   log: {escape(str(folder))}/daemon.log\n"
        f"go on by hand: [bold]{_command()} run --config {config}[/], then "
        f"drop a picture into {escape(str(folder))}/inbox/",
        soft_wrap=True,
    )


def _submit(sample: Path, inbox: Path) -> Path:
    with sample.open("rb") as content:
        return copy_in(content, sample.name, inbox)


def _command() -> str:
    """Return the command that runs i2vd, which may not be in PATH."""
    beside = Path(sys.executable).with_name("i2vd")
    short = beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside
    return escape(shlex.quote(str(short)))


def _wait_for_jobs(
    daemon: Sandbox,
    known: set[int],
    count: int,
    console: Console,
) -> list[dict[str, Any]]:
    """Show progress until all jobs have ended, and return them, oldest first."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[status]}"))
    end = time.monotonic() + _TIMEOUT_SECONDS
    bars: dict[int, TaskID] = {}
    with Progress(*columns, console=console) as progress:
        waiting = progress.add_task("waiting for the files to settle", total=None, status="")
        while time.monotonic() < end and daemon.running:
            jobs = [job for job in daemon.http.get("/api/jobs").json() if job["id"] not in known]
            for job in sorted(jobs, key=lambda job: int(job["id"])):
                progress.update(waiting, visible=False)
                if job["id"] not in bars:
                    bars[job["id"]] = progress.add_task(
                        f"{escape(job['path']):14}", total=None, status=""
                    )
                progress.update(bars[job["id"]], **_task_fields(job))
            ended = [job for job in jobs if job["state"] in ("done", "failed", "cancelled")]
            if len(ended) >= count:
                return sorted(ended, key=lambda job: int(job["id"]))
            time.sleep(0.3)
    raise SandboxFailed(f"not all clips were made within {_TIMEOUT_SECONDS:.0f} s; see daemon.log")


def _task_fields(job: dict[str, Any]) -> dict[str, Any]:
    if job["state"] in ("done", "failed", "cancelled"):
        return {"completed": 1, "total": 1, "status": job["state"]}
    now = job["progress"]
    if not now:
        return {"status": job["state"]}
    eta = "" if now["eta"] is None else f", {now['eta']:.0f} s left"
    return {
        "completed": now["step"],
        "total": now["steps"],
        "status": f"{now['stage']} {now['step']}/{now['steps']}{eta}",
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
