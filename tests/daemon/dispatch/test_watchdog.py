"""systemd notifications: the watchdog is fed while the dispatcher makes progress."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon.dispatch.slot import Slot
from daemon.dispatch.watchdog import STUCK_SECONDS, feed, send_status
from pipeline.children.generator import ClipGenerator
from pipeline.children.protocol import Load

_TIMEOUT_SECONDS = 5.0
"""A hundred times the interval of the notifications in these tests."""


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        yield listener


async def messages(
    listener: socket.socket,
    slots: list[Slot],
    count: int,
    status: Callable[[], str] = lambda: "0 queued",
) -> list[bytes]:
    """Return the first `count` messages, or those that arrived before a timeout."""
    loop = asyncio.get_running_loop()
    tasks = [asyncio.create_task(feed(slots)), asyncio.create_task(send_status(status))]
    said: list[bytes] = []
    try:
        while len(said) < count:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                said.append(await loop.sock_recv(listener, 1000))
    except TimeoutError:
        pass
    for task in tasks:
        task.cancel()
    return said


def slot(turned: float) -> Slot:
    generator = ClipGenerator(Load(model="micro", device="cpu", dtype="float32"), print, print)
    return Slot("cpu", generator, last_turn=time.monotonic() - turned)


async def test_watchdog_is_fed_while_every_slot_makes_progress(heard: socket.socket) -> None:
    said = await messages(heard, [slot(1.0), slot(STUCK_SECONDS - 60)], 4)
    assert sorted(said) == [b"STATUS=0 queued", *[b"WATCHDOG=1"] * 3]


async def test_watchdog_does_not_wait_for_an_unavailable_queue(
    heard: socket.socket,
) -> None:
    answered = threading.Event()

    def status() -> str:
        answered.wait(_TIMEOUT_SECONDS)
        return "an answer at last"

    said = await messages(heard, [slot(1.0)], 3, status)
    answered.set()
    assert said == [b"WATCHDOG=1"] * 3


async def test_one_hung_slot_stops_the_watchdog(heard: socket.socket) -> None:
    said = await messages(heard, [slot(1.0), slot(STUCK_SECONDS + 10)], 2)
    assert said == [b"STATUS=0 queued"]
