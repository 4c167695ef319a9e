"""Commands that use the API of a running daemon.

status, jobs, priority, retry, cancel, pause, resume, hosts, drain
"""

import json
import os
import sys
import time
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

import httpx2
import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from daemon.cli.base import Config, Exit, app, fail, load_settings
from daemon.cli.service import Json
from daemon.config.secret_file import read_token
from daemon.config.settings import Settings, SettingsError
from daemon.fleet.identity import host_name
from daemon.jobs.job import State
from daemon.telemetry.terminal import escape
from rules.characters import escape_unsafe

_MAX_SKIPPED_SHOWN = 100

_TIMEOUT = httpx2.Timeout(30, read=600)
"""Retrying thousands of jobs takes minutes."""

JobId = Annotated[int, typer.Argument(metavar="JOB", help="Number of the job.", min=1)]


def request(settings: Settings, method: str, path: str, body: Any = None, **params: Any) -> Any:
    """Return the API's response, or end the command with its error."""
    try:
        token = read_token(settings.http.token_file)
    except SettingsError as error:
        fail(Exit.MISTAKE, str(error))
    url = settings.http.url
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        response = httpx2.request(
            method,
            url + path,
            params=params,
            json=body,
            headers=headers,
            timeout=_TIMEOUT,
            trust_env=False,
        )
    except httpx2.TransportError as error:
        fail(
            Exit.NO_DAEMON,
            f"no i2vd answers at {url} ({error}); start it with `i2vd run`",
        )
    if response.is_error:
        try:
            detail = response.json().get("detail", response.text)
        except ValueError:
            detail = response.text.strip()
        fail(Exit.FAILED, str(detail))
    return response.json()


@app.command()
def status(config: Config = None, as_json: Json = False) -> None:
    """Show the problems of the daemon, its jobs by state, and the files that it skips."""
    settings = load_settings(config)
    now = request(settings, "GET", "/api/status")
    skipped = request(settings, "GET", "/api/skipped", limit=_MAX_SKIPPED_SHOWN)
    if as_json:
        typer.echo(json.dumps(now | {"skipped": skipped}, indent=2))
        return
    for problem in now["problems"]:
        typer.echo(f"problem: {escape_unsafe(problem)}")
    counts = ", ".join(f"{count} {state}" for state, count in now["jobs"].items() if count)
    typer.echo(f"jobs: {counts or 'none'}{', paused' if now['paused'] else ''}")
    for file in skipped["files"]:
        typer.echo(f"skipped: {escape_unsafe(file['path'])}: {escape_unsafe(file['detail'])}")
    if (more := skipped["total"] - len(skipped["files"])) > 0:
        typer.echo(f"skipped: {more} more")


@app.command()
def jobs(
    config: Config = None,
    state: Annotated[State | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    waiting: Annotated[
        bool, typer.Option(help="Only jobs that something of their own holds up.")
    ] = False,
    watch: Annotated[bool, typer.Option(help="Update the table until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """List the newest jobs."""
    settings = load_settings(config)
    query: dict[str, Any] = {"limit": limit} | ({"state": state} if state else {})
    if waiting:
        query["waiting"] = True

    def list_jobs() -> Any:
        return request(settings, "GET", "/api/jobs", **query)

    if as_json:
        typer.echo(json.dumps(list_jobs(), indent=2))
    elif not watch:
        Console().print(_table(list_jobs()))
    else:
        with Live(_table(list_jobs()), refresh_per_second=2) as live:
            try:
                while True:
                    time.sleep(1)
                    live.update(_table(list_jobs()))
            except KeyboardInterrupt:
                pass


def _table(found: list[dict[str, Any]]) -> Table:
    has_several_hosts = len({job["owner"] for job in found if job["owner"]}) > 1
    host = ("host",) if has_several_hosts else ()  # a terminal is narrow
    heads = ("job", "state", "picture", "rule", "preset", "progress", *host, "since")
    table = Table(*heads, box=None)
    colours = {"done": "green", "failed": "red", "running": "cyan", "publishing": "cyan"}
    for job in found:
        colour = colours.get(job["state"], "default")
        table.add_row(
            str(job["id"]),
            f"[{colour}]{job['state']}[/]",
            escape(job["path"]),
            escape(job["rule"] or ""),
            job["spec"]["preset"] if job["spec"] else "",
            _progress(job),
            *([escape(host_name(job["owner"] or ""))] if has_several_hosts else []),
            datetime.fromtimestamp(job["finished"] or job["created"]).strftime("%d %b %H:%M:%S"),
        )
    return table


def _progress(job: dict[str, Any]) -> str:
    if job["archival_error"]:
        return escape(f"its picture cannot leave the inbox: {job['archival_error']}")
    if job["state"] in ("queued", "publishing", "failed"):
        return escape(job["error"] or "")
    if progress := job["progress"]:
        eta = "" if progress["eta"] is None else f", {progress['eta']:.0f} s left"
        return f"{progress['stage']} {progress['step']}/{progress['steps']}{eta}"
    if job["state"] == "done":
        return escape(str((job["result"] or {}).get("clip", "")))
    return ""


@app.command()
def retry(
    job: Annotated[
        int | None, typer.Argument(metavar="JOB", help="Number of the job.", min=1)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All failed jobs.")] = False,
    config: Config = None,
) -> None:
    """Retry a failed or cancelled job, or all failed ones; moves the pictures back.

    A job that waits for a reason is tried again at once.
    """
    settings = load_settings(config)
    if (job is None) != every:
        fail(Exit.MISTAKE, "say either a job or --all")
    if job is not None:
        state = request(settings, "POST", f"/api/jobs/{job}/retry")["state"]
        if state == "failed":
            typer.echo(f"the picture of job {job} is in the inbox again, as a new drop")
        else:
            typer.echo(f"job {job} is {state}")
        return
    done = request(settings, "POST", "/api/retry", {"state": "failed"})
    for each in done["refused"]:
        sys.stderr.write(f"i2vd: {escape(each)}\n")
    typer.echo(f"{done['queued']} jobs are queued or dropped again")
    if done["refused"]:
        raise typer.Exit(Exit.FAILED)


@app.command()
def cancel(job: JobId, config: Config = None) -> None:
    """Cancel a queued job at once, a running one at its next step, a blocked publication soon."""
    state = request(load_settings(config), "POST", f"/api/jobs/{job}/cancel")["state"]
    typer.echo(
        f"job {job} is cancelled" if state == "cancelled" else f"job {job} will be cancelled"
    )


@app.command(context_settings={"ignore_unknown_options": True})  # -5 is a priority
def priority(
    job: JobId,
    number: Annotated[
        int,
        typer.Argument(metavar="PRIORITY", help="Higher is sooner; 0 is usual.", min=-100, max=100),
    ],
    config: Config = None,
) -> None:
    """Change the priority of a queued job."""
    request(load_settings(config), "POST", f"/api/jobs/{job}/priority", {"priority": number})
    typer.echo(f"job {job} has priority {number}")


@app.command()
def pause(config: Config = None) -> None:
    """Claim no more jobs; running jobs continue. Stays in force across restarts."""
    request(load_settings(config), "POST", "/api/pause")
    typer.echo("paused")


@app.command()
def resume(config: Config = None) -> None:
    """Claim jobs again."""
    request(load_settings(config), "POST", "/api/resume")
    typer.echo("resumed")


@app.command()
def hosts(config: Config = None, as_json: Json = False) -> None:
    """List the hosts of the queue and their running jobs."""
    found = request(load_settings(config), "GET", "/api/hosts")
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    heads = ("host", "state", "devices", "doing", "Mpx/s", "version", "heard")
    table = Table(*heads, box=None)
    colours = {"working": "green", "draining": "yellow", "drained": "yellow", "away": "red"}
    for host in found:
        table.add_row(
            escape(host["name"]),
            f"[{colours[host['state']]}]{host['state']}[/]",
            escape(", ".join(map(_device, host["devices"])) or "none"),
            escape(", ".join(f"#{job['id']} {job['path']}" for job in host["jobs"])),
            "" if host["speed"] is None else f"{host['speed']:.3g}",
            escape(host["version"]),
            f"{host['seconds_since_heartbeat']:.0f} s ago",
        )
    Console().print(table)


def _device(device: dict[str, Any]) -> str:
    name = device["name"] or device["device"]
    return name if device["memory"] is None else f"{name}, {device['memory'] / 1e9:.0f} GB"


@app.command()
def drain(
    host: Annotated[
        str | None, typer.Argument(help="Name from `i2vd hosts`; default: this host.")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Let it claim jobs again.")] = False,
    config: Config = None,
) -> None:
    """Drain a host: it finishes its running jobs and claims no more.

    Stays in force across restarts.
    """
    settings = load_settings(config)
    if host is None:
        known = request(settings, "GET", "/api/hosts")
        host = next((each["name"] for each in known if each["is_local"]), None)
        if host is None:
            fail(Exit.FAILED, "this host is not known to the queue yet; ask again in a while")
    verb = "undrain" if undo else "drain"
    drained = request(settings, "POST", f"/api/hosts/{quote(os.fsencode(host), safe='')}/{verb}")
    jobs = "".join(f", #{job['id']} {job['path']}" for job in drained["jobs"])
    typer.echo(f"{host} is {drained['state']}{jobs}")
