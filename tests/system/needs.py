"""Programs that some tests need and pip cannot install."""

import os
import shutil

import pytest


def needs(program: str, *, package: str) -> str:
    """Path of a program. Without it the test is skipped, and in CI, where it must run, it fails."""
    path = shutil.which(program)
    if path is None:
        missing(f"{program} is missing; to run this test: apt-get install {package}")
    return path


def missing(what: str) -> None:
    """End the test: something of the machine that it needs is not there."""
    if os.environ.get("CI") == "true":
        pytest.fail(what, pytrace=False)
    pytest.skip(what)
