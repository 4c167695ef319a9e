"""What holds for all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests.postgres import Server, serving

HERE = Path(__file__).parent
SLOW = (
    HERE / "system",
    HERE / "grafana",
    HERE / "pipeline" / "worker",
    HERE / "pipeline" / "micro",
)
"""They load the model, start the real daemon, or wait for promtool."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow by where it lies."""
    for item in items:
        if any(item.path.is_relative_to(place) for place in SLOW):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """A command that ran in this process has the log go to where its own output went."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """One PostgreSQL for all tests of a process; each makes a database of its own there."""
    with serving() as server:
        yield server
