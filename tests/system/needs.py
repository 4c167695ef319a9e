"""Programs that some tests need and pip cannot install: skip or fail without them."""

import os
import shutil

import pytest


def needs(program: str, *, package: str) -> str:
    """Return the path of a program. Without it the test is skipped, or fails in CI."""
    path = shutil.which(program)
    if path is None:
        missing(f"{program} is missing; to run this test: apt-get install {package}")
    return path


def missing(reason: str) -> None:
    """Skip the test, or fail it in CI: the machine lacks something."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
