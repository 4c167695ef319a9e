"""The `i2vd` app with all its commands; importing their modules registers them."""

from daemon.cli import bench, clips, jobs, queue, service, submit
from daemon.cli.base import app

__all__ = ["app", "bench", "clips", "jobs", "queue", "service", "submit"]
