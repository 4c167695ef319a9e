"""Who stands still hears nothing, and may call nobody silent for that."""

import asyncio
import signal
import sys
import time
from subprocess import PIPE, Popen

import pytest

from pipeline.children.timeouts import wait_excluding_stalls

LISTENER = """
import asyncio, sys
from pipeline.children.timeouts import wait_excluding_stalls

async def main():
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print("listening", flush=True)
    print((await wait_excluding_stalls(1.0, reader.readline)).decode(), end="")

asyncio.run(main())
"""


def test_an_answer_that_came_while_we_were_stopped_is_heard() -> None:
    # What it waits with ends at SIGCONT: with the answer, or with its time over.
    command = [sys.executable, "-c", LISTENER]
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True) as listener:
        assert listener.stdin and listener.stdout
        assert listener.stdout.readline() == "listening\n"
        time.sleep(0.1)
        listener.send_signal(signal.SIGSTOP)
        print("answer", file=listener.stdin, flush=True)
        time.sleep(1.2)
        listener.send_signal(signal.SIGCONT)
        assert listener.stdout.readline() == "answer\n"


async def test_what_is_still_to_come_has_its_time_after_a_standstill() -> None:
    box: asyncio.Queue[str] = asyncio.Queue()
    listening = asyncio.create_task(wait_excluding_stalls(0.4, box.get))
    await asyncio.sleep(0.05)
    time.sleep(1)  # the child slept too, with the machine
    await asyncio.sleep(0.15)
    box.put_nowait("answer")
    assert await listening == "answer"


async def test_silence_ends_patience() -> None:
    box: asyncio.Queue[str] = asyncio.Queue()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await wait_excluding_stalls(0.2, box.get)
    assert time.monotonic() - began > 0.19
    box.put_nowait("kept")
    assert await wait_excluding_stalls(0.2, box.get) == "kept"


async def test_without_a_limit_one_waits_for_good() -> None:
    box: asyncio.Queue[str] = asyncio.Queue()
    listening = asyncio.create_task(wait_excluding_stalls(None, box.get))
    await asyncio.sleep(0.1)
    box.put_nowait("answer")
    assert await listening == "answer"
