"""The sandbox of the picture child, tried from within by what code that took it over would do."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.pipeline.image.attack import ATTACKS, GOT_IN, Outcome

ROOT = Path(__file__).parents[3]
ALLOWED = ["start_a_thread", "read_the_picture", "use_memory"]
OF_ROOT = ["mount", "change_the_root", "load_a_program_into_the_kernel", "catch_page_faults"]
"""Attacks that only root could carry out."""
REFUSED = [
    "read_a_file", "read_by_openat2", "list_a_folder", "look_at_a_file", "look_by_statx",
    "write_a_file", "open_the_picture_again", "read_the_environment_of_the_parent",
    "clone_by_clone3", "raise_its_limits", "limit_another", "run_new_code",
    "make_data_executable", "control_a_device",
]  # fmt: skip
"""Attacks that are refused, and do not end the process."""
OF_LANDLOCK = [
    "read_a_file", "list_a_folder", "write_a_file", "make_a_folder", "remove_a_file",
    "rename_a_file", "link_a_file", "make_a_pipe_on_disk", "start_a_program", "connect",
    "kill_another", "kill_the_parent", "trace_another", "open_the_picture_again",
    "read_the_memory_of_another", "mount",
]  # fmt: skip
"""Attacks that Landlock refuses where there is no seccomp."""


BAD = [each for each in ATTACKS if each not in (*ALLOWED, "abort")]
FILES = ["old", "picture"]

Tried = Callable[[str, str], Outcome]


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Tried:
    """What came of an attack in some layers of the sandbox."""

    @cache
    def run(layers: str) -> dict[str, list[object]]:
        folder = tmp_path_factory.mktemp(layers)
        module = ("-m", "tests.pipeline.image.attack", layers, str(folder))
        told = subprocess.run(
            [sys.executable, *module], cwd=ROOT, stdout=subprocess.PIPE, timeout=120, check=True
        )
        return json.loads(told.stdout)

    return lambda layers, what: Outcome(*run(layers)[what])


@pytest.mark.parametrize("what", BAD)
def test_what_succeeds_outside_fails_within(tried: Tried, what: str) -> None:
    if what not in OF_ROOT or os.geteuid() == 0:
        outside = tried("none", what)
        assert (outside.returncode, outside.said) == (0, f"{GOT_IN}\n")
    inside = tried("landlock+seccomp", what)
    assert GOT_IN not in inside.said
    assert inside.returncode == (3 if what in REFUSED else -signal.SIGSYS), inside
    assert (inside.victim_lives, inside.files) == (True, FILES)


@pytest.mark.parametrize("what", OF_LANDLOCK)
def test_landlock_alone_refuses_too(tried: Tried, what: str) -> None:
    inside = tried("landlock", what)
    assert GOT_IN not in inside.said
    assert inside.returncode == 3, inside
    assert (inside.victim_lives, inside.files) == (True, FILES)


@pytest.mark.parametrize("what", BAD)
def test_seccomp_alone_refuses_too(tried: Tried, what: str) -> None:
    inside = tried("seccomp", what)
    assert inside.returncode == (3 if what in REFUSED else -signal.SIGSYS), inside
    assert (inside.victim_lives, inside.files) == (True, FILES)


@pytest.mark.parametrize("what", ALLOWED)
@pytest.mark.parametrize("layers", ["none", "landlock+seccomp"])
def test_what_decoders_need_is_allowed(tried: Tried, what: str, layers: str) -> None:
    assert tried(layers, what)[:2] == (0, f"{GOT_IN}\n")


def test_a_decoder_that_aborts_is_seen_as_that(tried: Tried) -> None:
    assert tried("landlock+seccomp", "abort").returncode == -signal.SIGABRT
