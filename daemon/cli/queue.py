"""Commands about the queue's database: queue backup, queue restore."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.base import Config, Exit, app, fail, load_settings
from daemon.cli.paths import shown

if TYPE_CHECKING:
    from daemon.config.settings import Settings

queue = typer.Typer(help="Back up and restore the queue in SQLite.", no_args_is_help=True)
app.add_typer(queue, name="queue")

File = Annotated[Path, typer.Argument(metavar="FILE", help="File of the backup.")]


@queue.command()
def backup(file: File, config: Config = None) -> None:
    """Copy the queue to a new FILE, also while the daemon works."""
    from daemon.jobs.backup import BackupFailed, back_up

    source = _database(load_settings(config))
    if not source.exists():
        fail(Exit.FAILED, f"{shown(source)}: there is no queue yet")
    try:
        back_up(source, file)
    except BackupFailed as error:
        fail(Exit.FAILED, str(error))
    typer.echo(f"{shown(source)} is copied to {shown(file)}")


@queue.command()
def restore(file: File, config: Config = None) -> None:
    """Put the backup in FILE in the place of the queue; the daemon must not run."""
    from daemon.fs.lock import AlreadyRunning, locked
    from daemon.jobs import backup as backups

    settings = load_settings(config)
    target = _database(settings)
    if not file.exists():
        fail(Exit.FAILED, f"{shown(file)}: there is no such file")
    settings.state.mkdir(parents=True, exist_ok=True)
    try:
        with locked(settings.state, target):
            former = backups.restore(file, target)
    except AlreadyRunning as error:
        fail(Exit.BUSY, str(error))
    except backups.BackupFailed as error:
        fail(Exit.FAILED, str(error))
    typer.echo(f"{shown(target)} is restored from {shown(file)}")
    if former is not None:
        typer.echo(f"the former queue is {shown(former)}")


def _database(settings: "Settings") -> Path:
    """Return the SQLite file of the queue, or end the command."""
    if settings.queue_file is None:
        fail(
            Exit.MISTAKE,
            "this queue is in PostgreSQL: use pg_dump and pg_restore (README.md, Several hosts)",
        )
    return settings.queue_file
