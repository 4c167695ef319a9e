"""The command line: typer commands over the daemon's parts."""

from daemon.cli import bench, clips, jobs, service
from daemon.cli.base import app

__all__ = ["app", "bench", "clips", "jobs", "service"]
