"""Folder threads: a call that never returns delays nothing but its own inbox."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.config.settings import Inbox
from daemon.storage import folder_threads
from daemon.storage.folder_threads import FolderHangs, FolderThreads

NEAR, FAR = Inbox(name="near", path=Path("near")), Inbox(name="far", path=Path("far"))


class Share:
    """A share that hangs until it is `back`."""

    def __init__(self) -> None:
        self.back = threading.Event()
        self.calls = 0
        self._lock = threading.Lock()

    def use(self) -> str:
        with self._lock:
            self.calls += 1
        assert self.back.wait(30)
        return "used"


@pytest.fixture
def share() -> Iterator[Share]:
    share = Share()
    yield share
    share.back.set()


@pytest.fixture
def threads() -> FolderThreads:
    return FolderThreads((NEAR, FAR))


async def until_busy(share: Share) -> None:
    while share.calls < folder_threads._MAX_THREADS:
        await asyncio.sleep(0.01)


async def test_calls_that_hang_delay_no_other_inbox(share: Share, threads: FolderThreads) -> None:
    hanging = [asyncio.create_task(threads.run(FAR, share.use)) for _ in range(100)]
    await until_busy(share)
    async with asyncio.timeout(5):
        assert await threads.run(NEAR, os.getpid) == os.getpid()
        assert await asyncio.to_thread(os.getpid) == os.getpid()
    assert share.calls == folder_threads._MAX_THREADS, "the threads are bounded"
    share.back.set()
    assert set(await asyncio.gather(*hanging)) == {"used"}


async def test_what_waits_for_folders_that_hang_is_given_up(
    share: Share, threads: FolderThreads
) -> None:
    hanging = [asyncio.create_task(threads.run(FAR, share.use)) for _ in range(10)]
    blocked = asyncio.create_task(asyncio.to_thread(threads.call, FAR, share.use))
    await until_busy(share)
    threads.give_up(FAR, "it hangs")
    async with asyncio.timeout(5):
        for error in await asyncio.gather(*hanging, blocked, return_exceptions=True):
            assert isinstance(error, FolderHangs)
            assert str(error) == "it hangs"
        with pytest.raises(FolderHangs, match="it hangs"):
            await threads.run(FAR, os.getpid)
        assert await threads.run(NEAR, os.getpid) == os.getpid()
    share.back.set()
    threads.resume(FAR)
    async with asyncio.timeout(5):
        assert await threads.run(FAR, os.getpid) == os.getpid()
    assert share.calls == folder_threads._MAX_THREADS, "what had not begun never does"


async def test_a_call_raises_what_its_function_raises(threads: FolderThreads) -> None:
    with pytest.raises(FileNotFoundError):
        await threads.run(NEAR, os.stat, "/nowhere")
    with pytest.raises(FileNotFoundError):
        threads.call(NEAR, os.stat, "/nowhere")


async def test_of_inboxes_asked_at_once_those_that_hang_are_left_out(
    share: Share, threads: FolderThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_threads, "HANG_SECONDS", 0.3)
    found = await threads.run_for_each(
        (FAR, NEAR), lambda inbox: share.use() if inbox is FAR else inbox.name
    )
    assert found == {"near": "near"}
    assert threads.hangs(NEAR) is None
    assert threads.hangs(FAR) == "inbox far: does not answer; is the server of its share away?"


def test_a_process_ends_although_a_call_never_returns(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "nobody-writes")
    code = """
import asyncio, sys
from pathlib import Path
from daemon.config.settings import Inbox
from daemon.storage.folder_threads import FolderThreads, Look

async def main():
    inbox = Inbox()
    threads = FolderThreads((inbox,))
    reading = asyncio.create_task(threads.run(inbox, Path(sys.argv[1]).read_bytes))
    look = Look(Path(sys.argv[1]).read_bytes)
    await look.wait(0.2)
    assert not look.is_back
    threads.close()
    await asyncio.wait([reading])
    print(type(reading.exception()).__name__)

asyncio.run(main())
"""
    command = [sys.executable, "-c", code, tmp_path / "nobody-writes"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "FolderHangs\n", "")
