"""Opening pictures for the child, where folders do not answer."""

import asyncio
import hashlib
import io
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.children import picture_file
from pipeline.children.picture_file import PictureOpener, picture_digest
from pipeline.children.protocol import Rejected, Unavailable

Open = Callable[[Path, Path | None], int | Rejected | Unavailable]


@pytest.fixture
def share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, threading.Event]:
    """A folder that does not answer until the event is set, as on a share whose server is away."""
    folder, back = tmp_path / "share", threading.Event()
    for name in ("share", "local"):
        (tmp_path / name / "sub").mkdir(parents=True)
        for file in ("a.png", "b.png", "sub/c.png"):
            (tmp_path / name / file).write_bytes(b"picture")
    real: Open = picture_file.open_picture

    def slow(path: Path, within: Path | None = None) -> int | Rejected | Unavailable:
        if path.is_relative_to(folder):
            back.wait()
        return real(path, within)

    monkeypatch.setattr(picture_file, "open_picture", slow)
    monkeypatch.setattr(picture_file, "_OPEN_TIMEOUT_SECONDS", 0.2)
    return folder, back


def threads() -> int:
    return sum(thread.name == "open picture" for thread in threading.enumerate())


def descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


async def test_a_share_that_hangs_holds_one_thread_and_delays_nobody(share) -> None:
    folder, back = share
    opener, before = PictureOpener(), descriptors()
    first = await opener.open(folder / "a.png", folder)
    assert isinstance(first, Unavailable)
    assert first.reason == f"{folder} does not answer; the file will be tried again"
    since = time.monotonic()
    for name in ("b.png", "a.png", "sub/c.png"):
        assert isinstance(await opener.open(folder / name, folder), Unavailable)
    assert time.monotonic() - since < 0.1
    assert threads() == 1
    local = await opener.open(folder.parent / "local" / "a.png")
    assert isinstance(local, int)
    os.close(local)
    back.set()
    while threads():
        await asyncio.sleep(0.01)
    assert descriptors() == before
    again = await opener.open(folder / "a.png", folder)
    assert isinstance(again, int)
    os.close(again)


async def test_who_no_longer_waits_leaves_no_descriptor(share) -> None:
    folder, back = share
    opener, before = PictureOpener(), descriptors()
    asking = asyncio.create_task(opener.open(folder / "a.png", folder))
    await asyncio.sleep(0.05)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    back.set()
    while threads():
        await asyncio.sleep(0.01)
    assert descriptors() == before


async def test_a_thousand_pictures_leave_no_descriptor_and_no_thread(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"picture")
    opener, before = PictureOpener(), descriptors()
    for _ in range(20):
        opened = await asyncio.gather(*(opener.open(tmp_path / "a.png") for _ in range(50)))
        for each in opened:
            assert isinstance(each, int)
            os.close(each)
    assert (descriptors(), threads()) == (before, 0)


def test_a_file_that_is_no_picture_by_its_size_is_not_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cat.jpg"
    with file.open("wb") as huge:
        huge.truncate(20 * 2**30)  # a hole alone
    with file.open("rb") as opened:
        assert picture_digest(opened) is None
        assert opened.tell() == 0, "nothing was read"
    monkeypatch.setattr(picture_file, "MAX_FILE_BYTES", 3)
    for content, digest in ((b"cat", hashlib.sha256(b"cat").hexdigest()), (b"cats", None)):
        file.write_bytes(content)
        with file.open("rb") as opened:
            assert picture_digest(opened) == digest


def test_a_file_that_grows_while_it_is_hashed_is_read_no_further_than_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Endless(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            return b"x" * (size or 0)

    monkeypatch.setattr(picture_file, "MAX_FILE_BYTES", 2**22)
    (tmp_path / "cat.jpg").touch()
    with Endless(tmp_path / "cat.jpg") as endless:
        assert picture_digest(endless) is None  # type: ignore[arg-type]
