"""The line above a bench's table: when and on what it was measured."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version


def head(more: str) -> str:
    """Date, versions, cores and load, and what else there is to tell."""
    versions = f"i2vd {version('i2vd')}, Python {platform.python_version()}"
    machine = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    return f"{datetime.now(UTC):%Y-%m-%d}, {versions}, {machine}; {more}"
