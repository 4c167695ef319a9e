"""Storage health: what blocks which inbox, and when it is tested again."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import ByteSize
from structlog.testing import capture_logs

from daemon.config.settings import Inbox, Settings
from daemon.fs.probe import write_probe
from daemon.jobs.database import Database, QueueUnavailable
from daemon.storage import health as health_module
from daemon.storage import volumes
from daemon.storage.folder_threads import FolderHangs, FolderThreads
from daemon.storage.health import StorageHealth
from daemon.storage.volumes import VolumeMarkers


def full(file: Path) -> OSError:
    return OSError(28, "No space left on device", str(file))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    inboxes = []
    for name in ("one", "two"):
        folders = {role: tmp_path / name / role for role in ("path", "outbox", "archive", "failed")}
        for folder in folders.values():
            folder.mkdir(parents=True)
        inboxes.append(Inbox(name=name, **folders))
    return Settings(inbox=tuple(inboxes), state=tmp_path, min_free=0)


@pytest.fixture
def storage(settings: Settings, tmp_path: Path) -> Iterator[VolumeMarkers]:
    database = Database(f"sqlite:///{tmp_path}/queue.sqlite")
    yield VolumeMarkers(settings, database)
    database.close()


def health_of(
    settings: Settings, storage: VolumeMarkers, try_write: Callable[[], None] = lambda: None
) -> StorageHealth:
    return StorageHealth(settings, storage, try_write, FolderThreads(settings.inbox))


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(health_module, "time", clock)
    return clock


async def test_an_error_blocks_only_its_inbox(
    settings: Settings, storage: VolumeMarkers, clock: Clock
) -> None:
    health = health_of(settings, storage)
    health.report_error(settings.inbox[0], full(settings.inbox[0].outbox))
    assert list(health.blocked) == ["one"]
    assert health.blocked["one"] == f"No space left on device: {settings.inbox[0].outbox}"
    await health.check()
    assert list(health.blocked) == ["one"], "it is too early to look again"
    clock.now = 2.0
    assert await health.check() is True
    assert health.blocked == {}


async def test_an_error_of_the_queue_blocks_all_until_it_can_be_written(
    settings: Settings, storage: VolumeMarkers, clock: Clock
) -> None:
    locked = True

    def try_write() -> None:
        if locked:
            raise QueueUnavailable("the queue is locked")

    health = health_of(settings, storage, try_write)
    health.report_error(settings.inbox[0], QueueUnavailable("the queue is locked"))
    clock.now = 10.0
    await health.check()
    assert health.blocked == {"one": "the queue is locked", "two": "the queue is locked"}
    locked = False
    await health.check()
    assert health.blocked == {}


async def test_what_fails_while_the_queue_is_away_does_not_lengthen_the_wait_for_it(
    settings: Settings, storage: VolumeMarkers, clock: Clock
) -> None:
    away = True

    def try_write() -> None:
        if away:
            raise QueueUnavailable("the queue is away")

    health = health_of(settings, storage, try_write)
    for _ in range(60):
        health.report_error(None, QueueUnavailable("the queue is away"))
        clock.now += 1.0
        await health.check()
        assert health.blocked
    away = False
    clock.now += 2.0
    await health.check()
    assert health.blocked == {}


async def test_errors_in_a_row_wait_longer_until_a_clip_gets_through(
    settings: Settings, storage: VolumeMarkers, clock: Clock
) -> None:
    """A quota lets the probe through and not the clip: that must not burn the GPU for ever."""
    health, inbox, waits = health_of(settings, storage), settings.inbox[0], []
    for _ in range(10):
        health.report_error(inbox, full(inbox.outbox))
        began = clock.now
        while health.blocked:
            clock.now += 1.0
            await health.check()
        waits.append(clock.now - began)
    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    health.report_success(inbox)
    health.report_error(inbox, full(inbox.outbox))
    clock.now += 2.0
    await health.check()
    assert health.blocked == {}


async def test_a_queue_that_worked_for_as_long_as_the_delay_is_tested_soon_again(
    settings: Settings, storage: VolumeMarkers, clock: Clock
) -> None:
    """A host without clips reports no success; each restart of the database doubled its delay."""
    health = health_of(settings, storage)
    for pause, wait in ((0.0, 2.0), (1.0, 4.0), (5.0, 2.0), (2.0, 4.0), (4.0, 8.0)):
        clock.now += pause
        health.report_error(None, QueueUnavailable("the queue is away"))
        clock.now += wait - 0.1
        await health.check()
        assert health.blocked, f"after {pause} seconds"
        clock.now += 0.1
        await health.check()
        assert not health.blocked, f"after {pause} seconds"


async def test_a_folder_that_is_gone_stops_its_inbox(
    settings: Settings, storage: VolumeMarkers
) -> None:
    health = health_of(settings, storage)
    settings.inbox[1].outbox.rmdir()
    await health.check()
    assert "No such file" in health.blocked["two"]
    assert "one" not in health.blocked


async def test_too_little_space_is_reported_with_the_remedy(
    settings: Settings, storage: VolumeMarkers
) -> None:
    health = health_of(settings.model_copy(update={"min_free": ByteSize(10**18)}), storage)
    await health.check()
    assert health.blocked.keys() == {"one", "two"}
    assert f"state {settings.state}: " in health.blocked["one"]
    assert "MB free, min_free is 1.0EB; make room" in health.blocked["one"]


async def test_an_inbox_whose_look_does_not_come_back_is_blocked_until_it_does(
    settings: Settings, storage: VolumeMarkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging, back, outbox = threading.Event(), threading.Event(), settings.inbox[1].outbox
    looks = 0

    def free(folder: Path) -> float:
        nonlocal looks
        looks += folder == outbox
        if folder == outbox and hanging.is_set():
            assert back.wait(30)
        return 1e9

    monkeypatch.setattr(health_module, "free_bytes", free)
    monkeypatch.setattr(health_module, "HANG_SECONDS", 0.4)
    monkeypatch.setattr(health_module, "_LOOK_SECONDS", 0.1)
    threads = FolderThreads(settings.inbox)
    health = StorageHealth(settings, storage, lambda: None, threads)
    with capture_logs() as logs:
        await health.check()
        hanging.set()
        waiting = asyncio.create_task(threads.run(settings.inbox[1], back.wait, 30))
        while not health.blocked:
            await health.check(0.1)
        for _ in range(5):
            await health.check(0.1)
        reason = f"outbox {outbox}: does not answer; is the server of its share away?"
        assert health.blocked == {"two": reason}
        assert looks == 2, "one look is out, not one more each time"
        with pytest.raises(FolderHangs):
            await waiting
        health.report_error(settings.inbox[1], FolderHangs(reason))
        hanging.clear()
        back.set()
        while health.blocked:
            await health.check(0.1)
        assert await threads.run(settings.inbox[1], back.is_set)
    assert [each["event"] for each in logs] == ["intake paused", "intake resumed"]


async def test_inboxes_that_have_the_same_folders_are_looked_at_at_once(
    settings: Settings, storage: VolumeMarkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_slowly(marker: Path, content: str) -> None:
        with marker.open("x", encoding="utf-8") as file:
            time.sleep(0.1)
            file.write(content)

    monkeypatch.setattr(volumes, "_create", write_slowly)
    one, two = settings.inbox
    two = one.model_copy(update={"name": "two", "path": two.path})
    health = health_of(settings.model_copy(update={"inbox": (one, two)}), storage)
    await health.check(patience=30)
    assert health.blocked == {}


def test_a_probe_leaves_nothing(tmp_path: Path) -> None:
    write_probe(tmp_path)
    assert list(tmp_path.iterdir()) == []
