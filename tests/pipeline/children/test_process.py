"""Child processes: how they end, what they may know, and what they write to stderr."""

import asyncio
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.children.exit_reasons import classify_exit
from pipeline.children.process import Child, Exited
from pipeline.children.protocol import CHANNEL_FD

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _children_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.parametrize("number", [signal.SIGRTMIN + 2, signal.SIGRTMAX, 63, signal.SIGSEGV])
async def test_any_signal_that_kills_a_child_is_described(number: int) -> None:
    child = await Child.spawn("tests.pipeline.peer", lambda _: None)
    await child.receive(30)
    os.kill(child.pid, number)
    end = await child.receive(30)
    assert isinstance(end, Exited)
    assert end.returncode == -number
    assert re.match(r"was killed by (SIG\w+|signal \d+)", end.cause)
    cause = "killed" if number >= signal.SIGRTMIN else "crash"  # nobody's fault sends those
    assert classify_exit("the worker", end, "denoise", oom_killed=False).cause == cause


async def test_a_child_does_not_know_the_password_of_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("I2VD_QUEUE__URL", "postgresql://user:hunter2@host/x")
    monkeypatch.setenv("I2VD_TORCH_THREADS", "1")
    child = await Child.spawn("tests.pipeline.peer", lambda _: None)
    await child.receive(30)
    environment = Path(f"/proc/{child.pid}/environ").read_bytes()
    assert b"hunter2" not in environment
    assert b"I2VD_TORCH_THREADS=1" in environment
    await child.close()


@pytest.mark.parametrize("module", ["pipeline.image", "pipeline.worker", "tests.pipeline.peer"])
@pytest.mark.parametrize("unread", [False, True])
def test_a_child_whose_parent_is_gone_ends_without_a_word(module: str, unread: bool) -> None:
    ours, theirs = socket.socketpair()
    if not unread:
        ours.close()
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", module],
        pass_fds=[theirs.fileno()],
        env={**os.environ, CHANNEL_FD: str(theirs.fileno())},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    theirs.close()
    with child:
        if unread:  # its hello is there, and nobody takes it
            select.select([ours], [], [], 60)
            ours.close()
        _, said = child.communicate(timeout=60)
    assert child.returncode == 0
    assert b"Traceback" not in said


async def test_a_child_that_writes_without_end_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "talkative.py").write_text(
        "import sys\n"
        "for number in range(200_000):\n"
        "    print('warning', number, file=sys.stderr)\n"
        "print('the last words', file=sys.stderr)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    lines: list[str] = []
    turns = []
    child = await Child.spawn("talkative", lines.append)
    ended = asyncio.create_task(child.receive(60))
    began = last = time.monotonic()
    while not ended.done():
        await asyncio.sleep(0.01)
        turns.append(time.monotonic() - last)
        last = time.monotonic()
    end = ended.result()
    assert isinstance(end, Exited)
    assert end.stderr[-1] == "the last words"
    assert max(turns) < 1
    seconds = time.monotonic() - began
    assert lines[:2] == ["warning 0", "warning 1"]
    assert len(lines) < 1010 * (seconds / 60 + 2)
    left_out = [int(found[1]) for line in lines if (found := re.match(r"... (\d+) more", line))]
    assert sum(left_out) + len(lines) - len(left_out) == 200_001
