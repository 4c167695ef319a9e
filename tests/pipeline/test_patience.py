"""Who stands still hears nothing, and may call nobody silent for that."""

import asyncio
import socket
import time

import pytest

from pipeline.patience import within


async def test_an_answer_that_came_while_we_stood_still_is_heard() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    listening = asyncio.create_task(within(0.2, reader.readline))
    await asyncio.sleep(0.05)
    theirs.sendall(b"answer\n")
    time.sleep(0.5)  # as under SIGSTOP: the limit passes and the loop does not run
    assert await listening == b"answer\n"
    writer.close()
    theirs.close()


async def test_what_is_still_to_come_has_its_time_after_a_standstill() -> None:
    box: asyncio.Queue[str] = asyncio.Queue()
    listening = asyncio.create_task(within(0.4, box.get))
    await asyncio.sleep(0.05)
    time.sleep(1)  # the child slept too, with the machine
    await asyncio.sleep(0.15)
    box.put_nowait("answer")
    assert await listening == "answer"


async def test_silence_ends_patience() -> None:
    box: asyncio.Queue[str] = asyncio.Queue()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await within(0.2, box.get)
    assert time.monotonic() - began > 0.19
    box.put_nowait("kept")
    assert await within(0.2, box.get) == "kept"


async def test_without_a_limit_one_waits_for_good() -> None:
    box: asyncio.Queue[str] = asyncio.Queue()
    listening = asyncio.create_task(within(None, box.get))
    await asyncio.sleep(0.1)
    box.put_nowait("answer")
    assert await listening == "answer"
