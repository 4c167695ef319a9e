"""What holds for all tests."""

import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from xdist.scheduler import LoadFileScheduling

from tests.postgres import Server, serving

HERE = Path(__file__).parent
SLOW = (
    HERE / "system",
    HERE / "grafana",
    HERE / "pipeline" / "worker",
    HERE / "pipeline" / "micro",
)
"""They load the model, start the real daemon, or wait for promtool."""

LONG = "tests/field/test_field.py"
"""Each of its tests has a daemon of its own, so that several processes can share them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow by where it lies, and run it first: at the end no process waits long."""
    for item in items:
        if any(item.path.is_relative_to(place) for place in SLOW):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


class ByFile(LoadFileScheduling):
    """Gives a process one file after another, or a share of a long one."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return f"{file} {zlib.crc32(nodeid.encode()) % 4}" if file == LONG else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFile:
    """Distribute the tests by file."""
    return ByFile(config, log)


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
