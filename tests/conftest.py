"""What holds for all tests."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
SLOW = (
    HERE / "system",
    HERE / "grafana",
    HERE / "pipeline" / "worker",
    HERE / "pipeline" / "test_micro.py",
)
"""They load the model, start the real daemon, or wait for promtool."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow by where it lies."""
    for item in items:
        if any(item.path.is_relative_to(place) for place in SLOW):
            item.add_marker(pytest.mark.slow)
