"""What holds for all tests."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
SLOW_FOLDERS = (HERE / "system", HERE / "pipeline" / "worker")
"""They load the model, or start the real daemon."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow by where it lies."""
    for item in items:
        if any(item.path.is_relative_to(folder) for folder in SLOW_FOLDERS):
            item.add_marker(pytest.mark.slow)
