"""File notifications: what happens in an inbox wakes the scan."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from watchdog.observers.inotify_move_event_grouper import InotifyMoveEventGrouper

from daemon.config.settings import Inbox
from daemon.intake.inotify import FileNotifier
from daemon.intake.watcher import Watcher
from daemon.storage.folder_threads import FolderThreads


@pytest.fixture
def inbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(InotifyMoveEventGrouper, "delay", 30.0)
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


async def woken(inbox: Path, *happenings: str) -> bool:
    """Whether a watcher of the inbox is woken by each of the happenings, one after the other."""
    watcher = Mock(Watcher, inbox=Inbox(path=inbox), wake=asyncio.Event())
    (inbox / "old.jpg").write_bytes(b"old")
    notifier = FileNotifier()
    await notifier.start([watcher], FolderThreads([watcher.inbox]))
    assert notifier.modes == {watcher.inbox.name: "inotify"}
    try:
        for happening in happenings:
            watcher.wake.clear()
            match happening:
                case "new":
                    (inbox / "new.jpg").write_bytes(b"new")
                case "left":
                    (inbox / "old.jpg").rename(inbox.parent / "old.jpg")
            async with asyncio.timeout(10):
                await watcher.wake.wait()
    except TimeoutError:
        return False
    finally:
        notifier.stop()
    return True


def test_a_new_picture_wakes_the_scan(inbox: Path) -> None:
    assert asyncio.run(woken(inbox, "new"))


def test_a_picture_that_leaves_delays_no_notification(inbox: Path) -> None:
    assert asyncio.run(woken(inbox, "left", "new"))
