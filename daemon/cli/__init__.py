"""The command line: typer commands over the daemon's parts."""

from daemon.cli import local, measure, remote, studio
from daemon.cli.base import app

__all__ = ["app", "local", "measure", "remote", "studio"]
