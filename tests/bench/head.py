"""Shared by all benchmarks: the line above a table, and the 99th percentile."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version


def head(more: str) -> str:
    """Return a line with date, versions, cores, load and `more`."""
    versions = f"i2vd {version('i2vd')}, Python {platform.python_version()}"
    machine = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    return f"{datetime.now(UTC):%Y-%m-%d}, {versions}, {machine}; {more}"


def p99(values: Sequence[float]) -> float:
    """Return the 99th percentile: of a hundred values, all but one are less."""
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]
