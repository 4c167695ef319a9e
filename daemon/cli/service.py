"""Commands that need no running daemon: run, check, explain, demo, version."""

import asyncio
import json
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import structlog
import typer
from rich.console import Console

from daemon.cli.base import Config, Exit, app, fail, load_settings
from daemon.config.loader import find_config
from daemon.config.settings import SettingsError
from daemon.fs.mounts import queue_refusal
from daemon.telemetry import logs

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def run(config: Config = None) -> None:
    """Watch the inboxes and make clips until stopped (SIGTERM, Ctrl-C; twice to stop now)."""
    from daemon.app import StopRequested, open_app
    from daemon.fs import descriptors
    from daemon.fs.lock import AlreadyRunning, locked
    from daemon.jobs.database import DatabaseUnusable
    from daemon.web.server import CannotListen

    settings = load_settings(config, quiet=False)
    logs.take_over_stderr()
    descriptors.raise_limit()
    log = structlog.get_logger()
    if find_config(config) is None:
        log.info("settings file missing, using the defaults", folder=str(Path.cwd()))
    try:
        if (queue := settings.queue_file) and (refusal := queue_refusal(queue.parent)):
            fail(Exit.MISTAKE, refusal)
        if settings.model.devices:
            _require_usable(settings.model.name)
        if not settings.state.is_dir():
            settings.state.mkdir(parents=True)
            log.info("path created", path=str(settings.state))
        with locked(settings.state, settings.queue_file):
            daemon = open_app(settings)
            asyncio.run(daemon.run())
    except StopRequested:
        return
    except (AlreadyRunning, CannotListen) as error:
        fail(Exit.BUSY, str(error))
    except SettingsError as error:
        fail(Exit.MISTAKE, str(error))
    except DatabaseUnusable as error:
        fail(Exit.FAILED, str(error))
    except OSError as error:
        fail(Exit.FAILED, f"{error.filename or ''}: {error.strerror or error}")
    if daemon.failed:
        fail(Exit.FAILED, daemon.failed)


def _require_usable(model: str) -> None:
    """End the command if the model is damaged, or its name is none; it may still be missing."""
    from pipeline.checkpoint.layout import ModelMissing, ModelUnusable, find
    from pipeline.memory.dimensions import read_dimensions

    try:
        read_dimensions(find(model, small=True))
    except ModelMissing:
        return  # the worker says so, and tries again
    except ModelUnusable as error:
        fail(Exit.MISTAKE, f"model.name: {error}")


@app.command()
def check(config: Config = None, as_json: Json = False) -> None:
    """Check settings, rules, folders, disk, device and weights; exit code 2 on a mistake."""
    from daemon.cli import check as checks
    from daemon.estimate import requirements

    settings = load_settings(config)
    findings = checks.check(settings)
    if as_json:
        typer.echo(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        for line in checks.lines(findings):
            Console().print(line, soft_wrap=True, highlight=False)
        requirements.show(checks.table(settings), Console())
    if any(finding.verdict == "mistake" for finding in findings):
        raise typer.Exit(Exit.MISTAKE)


@app.command()
def explain(
    picture: Annotated[
        Path,
        typer.Argument(help="A file, or its path in an inbox.", readable=False),
    ],
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show the rule that matches PICTURE, the resulting clip, and earlier jobs.

    The exit code is 2 if no clip is made of it.
    """
    from daemon.cli import explain as explanations

    settings = load_settings(config)
    try:
        explanation = asyncio.run(explanations.explain(settings, picture))
    except explanations.NotExplained as error:
        fail(Exit.MISTAKE, str(error))
    if as_json:
        typer.echo(explanation.model_dump_json(indent=2))
    else:
        explanations.show(explanation, Console())
    if not explanation.gives_clip:
        raise typer.Exit(Exit.MISTAKE)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder to work in.")] = Path("demo"),
) -> None:
    """Run the daemon with the embedded model on sample pictures."""
    from daemon.cli.demo import demonstrate
    from daemon.cli.sandbox import SandboxFailed

    try:
        demonstrate(folder, Console())
    except SandboxFailed as error:
        fail(Exit.FAILED, str(error))


@app.command("version")
def show_version() -> None:
    """Print the version."""
    typer.echo(f"i2vd {version('i2vd')}")
