"""Settings that come through a pipe: all that is written, and an end to waiting."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.config import pipe
from daemon.config.loader import load
from daemon.config.pipe import read_pipe
from daemon.config.settings import SettingsError
from rules.text_file import Unreadable

pytestmark = pytest.mark.timeout(20)


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(pipe, "_NO_WRITER_SECONDS", 0.5)
    monkeypatch.setattr(pipe, "_SILENT_SECONDS", 0.5)
    os.mkfifo(tmp_path / "pipe")
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield tmp_path / "pipe"
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def write(named: Path, *parts: bytes, pause: float = 0.2) -> threading.Thread:
    """Write the parts like a program that takes its time, beginning after a pause."""

    def run() -> None:
        time.sleep(pause)
        with named.open("wb", buffering=0) as file:
            for part in parts:
                file.write(part)
                time.sleep(pause)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("parts", [(), (b"a = 1",), (b"a = ", b"1\n", b"b = 2"), (b"x" * 300_000,)])
def test_all_that_a_program_writes_is_read(named: Path, parts: tuple[bytes, ...]) -> None:
    writer = write(named, *parts)
    assert read_pipe(named) == b"".join(parts).decode()
    writer.join()


def test_a_pipe_into_which_nobody_writes_is_not_waited_for(named: Path) -> None:
    with pytest.raises(SettingsError, match=r"pipe: is a pipe into which no program writes"):
        load(named)


def test_a_program_that_writes_nothing_is_not_waited_for(named: Path) -> None:
    writer = write(named, b"a = 1", pause=1.2)
    opener = os.open(named, os.O_RDWR)
    with pytest.raises(Unreadable, match=r"a program writes nothing; waited 0\.5 s"):
        read_pipe(named)
    os.close(opener)
    with named.open("rb") as rest:
        assert rest.read() == b"a = 1"
    writer.join()


def test_an_endless_pipe_is_refused(named: Path) -> None:
    yes = subprocess.Popen(["sh", "-c", f"exec yes > {named}"], stderr=subprocess.DEVNULL)
    with pytest.raises(Unreadable, match="is over 1024 KiB"):
        read_pipe(named)
    yes.wait(5)


@pytest.mark.parametrize("seconds", [0, 0.5])
def test_the_output_of_a_command_is_read(tmp_path: Path, seconds: float) -> None:
    """As bash passes `--config <(command)`; the command may have ended before."""
    script = f"sleep {0.5 - seconds}; exec {sys.executable} -m daemon check --json"
    config = f'<(sleep {seconds}; echo "[queue]"; sleep {seconds}; echo "mystake = 1")'
    done = subprocess.run(
        ["bash", "-c", f"{script} --config {config}"], check=False, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert "mystake" in done.stderr
