"""Watcher: the StabilityTracker is pure, the scan sees dropped pictures and nothing else."""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from daemon.config.settings import Inbox, Settings
from daemon.fs.fingerprint import FileState
from daemon.fs.mounts import file_system
from daemon.intake import skipped
from daemon.intake.junk import is_ignored
from daemon.intake.scanner import InboxUnavailable, is_picture, scan
from daemon.intake.stability import StabilityTracker
from daemon.intake.watcher import Answer, DeferToSlowLane, RetryLater, Watcher, scan_backoff
from daemon.jobs.database import Database, QueueUnavailable
from daemon.storage.folder_threads import FolderThreads
from daemon.storage.health import StorageHealth
from daemon.storage.volumes import VolumeMarkers

A = FileState(1, 1)
B = FileState(2, 2)


def test_a_file_is_offered_once_after_it_stood_still() -> None:
    tracker = StabilityTracker(2.0)
    assert tracker.observe(0.0, {"a.jpg": A}) == []
    assert tracker.next_due() == 2.0
    assert tracker.observe(1.9, {"a.jpg": A}) == []
    assert tracker.observe(2.0, {"a.jpg": A}) == ["a.jpg"]
    assert tracker.observe(9.0, {"a.jpg": A}) == []
    assert tracker.next_due() is None


def test_a_change_restarts_the_wait() -> None:
    tracker = StabilityTracker(2.0)
    tracker.observe(0.0, {"a.jpg": A})
    assert tracker.observe(1.9, {"a.jpg": B}) == []
    assert tracker.observe(2.1, {"a.jpg": B}) == []
    assert tracker.observe(3.9, {"a.jpg": B}) == ["a.jpg"]


def test_a_file_that_changed_or_came_back_is_offered_again() -> None:
    tracker = StabilityTracker(0.0)
    assert tracker.observe(0.0, {"a.jpg": A}) == ["a.jpg"]
    assert tracker.observe(1.0, {"a.jpg": B}) == ["a.jpg"]
    assert tracker.observe(2.0, {}) == []
    assert tracker.observe(3.0, {"a.jpg": B}) == ["a.jpg"]


def test_a_file_can_be_asked_for_again_later() -> None:
    tracker = StabilityTracker(0.0)
    tracker.observe(0.0, {"a.jpg": A})
    tracker.offer_again(["a.jpg", "gone.jpg"], 5.0)
    assert tracker.observe(4.0, {"a.jpg": A}) == []
    assert tracker.observe(5.0, {"a.jpg": A}) == ["a.jpg"]


@given(st.lists(st.tuples(st.floats(0.01, 3.0), st.booleans()), max_size=40))
def test_nothing_is_offered_that_changed_within_the_stability_delay(
    steps: list[tuple[float, bool]],
) -> None:
    tracker, now, changed, state = StabilityTracker(2.0), 0.0, 0.0, 0
    tracker.observe(now, {"a": FileState(0, 0)})
    for wait, changes in steps:
        now += wait
        if changes:
            state, changed = state + 1, now
        if tracker.observe(now, {"a": FileState(state, 0)}):
            assert now - changed >= 2.0 - 1e-9


@pytest.mark.parametrize(
    "name",
    [
        ".hidden.jpg", "._cat.jpg", "cat.jpg.part", "cat.jpg.tmp", "cat.crdownload", "~$cat.jpg",
        "Thumbs.db", "@eaDir", ".stfolder", ".nfs0001", ".syncthing.cat.jpg.tmp",
        "cat.sync-conflict-20240101-010101-ABC.jpg", ".cat.jpg.Xy12Za", "cat.jpg~",
    ],
)  # fmt: skip
def test_junk_is_known(name: str) -> None:
    assert is_ignored(name)


@pytest.mark.parametrize("name", ["cat.jpg", "CAT.JPEG", "my cat (2).png", "a.b.HEIC", "-x.webp"])
def test_pictures_are_known(name: str) -> None:
    assert is_picture(name)
    assert not is_ignored(name)


def test_the_scan_finds_pictures_and_only_plain_files(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    for path in ("a.jpg", "sub/deep/b.PNG", "notes.txt", "@eaDir/c.jpg", ".x/d.jpg", "e.jpg.part"):
        (inbox / path).parent.mkdir(parents=True, exist_ok=True)
        (inbox / path).write_bytes(b"x")
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"x")
    (inbox / "link.jpg").symlink_to(secret)
    (inbox / "folder").symlink_to(tmp_path)
    os.mkfifo(inbox / "fifo.jpg")
    (inbox / os.fsdecode(b"bad\xff.jpg")).write_bytes(b"x")
    assert sorted(scan(inbox, recursive=True).pictures) == ["a.jpg", "sub/deep/b.PNG"]
    assert sorted(scan(inbox, recursive=False).pictures) == ["a.jpg"]


def test_a_missing_inbox_is_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(InboxUnavailable, match="nowhere"):
        scan(tmp_path / "nowhere", recursive=True)


class Basket:
    """Takes every picture, with the same answer; those called slow aside, and once it is `free`."""

    def __init__(self, answer: Answer = None) -> None:
        self.answer = answer
        self.known: set[str] = set()
        self.offered: list[str] = []
        self.taken: list[str] = []
        self.free = asyncio.Event()

    async def without_job(self, _: Inbox, files: Mapping[str, FileState]) -> list[str]:
        return [path for path in files if path not in self.known]

    async def overrides_used(self, _: Inbox, __: Mapping[str, str]) -> dict[str, bool]:
        return {}

    def named_folders(self, _: Inbox) -> list[str]:
        return []

    async def handle(
        self, _: Inbox, path: str, __: FileState, *, slow_lane: bool = False
    ) -> Answer:
        if not slow_lane:
            self.offered.append(path)
        if path.startswith("slow"):
            if not slow_lane:
                return DeferToSlowLane()
            await self.free.wait()
        self.taken.append(path)
        return self.answer


_opened: list[Database] = []


@pytest.fixture(autouse=True)
def _queue(tmp_path: Path) -> Iterator[None]:
    _opened.append(Database(f"sqlite:///{tmp_path}/queue.sqlite"))
    yield
    _opened.pop().close()


def watcher_of(inbox: Inbox, basket: Basket) -> Watcher:
    settings = Settings(inbox=(inbox,))
    storage = VolumeMarkers(settings, _opened[-1])
    threads = FolderThreads(settings.inbox)
    health = StorageHealth(settings, storage, lambda: None, threads)
    return Watcher(inbox, 0.02, basket, health, storage, threads)


async def run_watcher(watcher: Watcher, until: Callable[[], bool]) -> None:
    """Have it look until something holds, and a little longer: for what should not come."""
    stopping = asyncio.Event()
    task = asyncio.create_task(watcher.run(stopping))
    async with asyncio.timeout(30):
        while not until():
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    stopping.set()
    watcher.wake.set()
    await task


def looked(watcher: Watcher) -> bool:
    return watcher.scan_seconds > 0


async def test_an_inbox_that_vanishes_is_waited_for(tmp_path: Path) -> None:
    inbox = Inbox(path=tmp_path / "inbox", stability_delay=0.0)
    inbox.path.mkdir()
    basket = Basket()
    watcher = watcher_of(inbox, basket)
    await run_watcher(watcher, lambda: looked(watcher))
    (inbox.path / "a.jpg").write_bytes(b"x")
    away = inbox.path.rename(tmp_path / "away")
    await run_watcher(watcher, lambda: watcher.unavailable is not None)
    assert basket.taken == []
    inbox.path.mkdir()  # an unmounted folder
    missing = watcher.unavailable
    await run_watcher(watcher, lambda: watcher.unavailable != missing)
    assert watcher.unavailable
    inbox.path.rmdir()
    away.rename(inbox.path)
    await run_watcher(watcher, lambda: bool(basket.taken))
    assert not watcher.unavailable
    assert basket.taken == ["a.jpg"]


async def test_what_no_rule_wants_is_offered_again_when_the_rules_change(tmp_path: Path) -> None:
    inbox = Inbox(path=tmp_path, stability_delay=0.0)
    (tmp_path / "a.jpg").write_bytes(b"x")
    basket = Basket(RetryLater(None))
    watcher = watcher_of(inbox, basket)
    await run_watcher(watcher, lambda: bool(basket.taken))
    assert (basket.taken, watcher.unmatched) == (["a.jpg"], {"a.jpg"})
    watcher.rules_changed()
    await run_watcher(watcher, lambda: len(basket.taken) > 1)
    assert basket.taken == ["a.jpg", "a.jpg"]


async def test_among_many_old_files_only_the_new_ones_are_taken(tmp_path: Path) -> None:
    for number in range(1200):
        (tmp_path / f"{number:04}.jpg").write_bytes(b"x")
    basket = Basket()
    basket.known = {f"{number:04}.jpg" for number in range(1200) if number not in (7, 1100)}
    watcher = watcher_of(Inbox(path=tmp_path, stability_delay=0.0), basket)
    await run_watcher(watcher, lambda: len(basket.taken) > 1)
    assert sorted(basket.taken) == ["0007.jpg", "1100.jpg"]


async def test_slow_pictures_wait_for_each_other_alone(tmp_path: Path) -> None:
    names = ["slow-1.jpg", "slow-2.jpg", "a.jpg", "b.jpg"]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (number, number))
    basket = Basket()

    def all_taken() -> bool:
        if len(basket.taken) > 1:
            basket.free.set()
        return len(basket.taken) > 3

    await run_watcher(watcher_of(Inbox(path=tmp_path, stability_delay=0.0), basket), all_taken)
    assert basket.taken == ["a.jpg", "b.jpg", "slow-1.jpg", "slow-2.jpg"]


async def test_a_slow_picture_that_is_replaced_is_decoded_again(tmp_path: Path) -> None:
    names = ["slow-1.jpg", "slow-2.jpg"]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (number, number))
    basket = Basket()
    replaced = False

    def all_taken() -> bool:
        nonlocal replaced
        if basket.offered == names and not replaced:
            (tmp_path / "slow-2.jpg").write_bytes(b"another")
            replaced = True
        if basket.offered[2:] == ["slow-2.jpg"]:
            basket.free.set()
        return len(basket.taken) > 1

    await run_watcher(watcher_of(Inbox(path=tmp_path, stability_delay=0.0), basket), all_taken)
    assert basket.taken == names


# --- one file's trouble


class Stubborn(Basket):
    """Raises an error for one picture, at each look or when it is asked about."""

    def __init__(self, error: BaseException, *, asking: bool = False) -> None:
        super().__init__()
        self.error = error
        self.asking = asking
        self.looks = 0

    async def without_job(self, inbox: Inbox, files: Mapping[str, FileState]) -> list[str]:
        if self.asking and "bad.jpg" in files:
            raise self.error
        return await super().without_job(inbox, files)

    async def handle(
        self, inbox: Inbox, path: str, seen: FileState, *, slow_lane: bool = False
    ) -> Answer:
        if path == "bad.jpg":
            self.looks += 1
            raise self.error
        return await super().handle(inbox, path, seen, slow_lane=slow_lane)


@pytest.mark.parametrize("asking", [False, True])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RecursionError("too deep"), "internal_error"),
        (MemoryError(), "internal_error"),
        (UnicodeEncodeError("latin-1", "x", 0, 1, "no"), "internal_error"),
        (KeyError("spec"), "internal_error"),
        (PermissionError(13, "Permission denied", "bad.jpg"), "unreadable"),
        (OSError(24, "Too many open files"), "unreadable"),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Exception) else each,
)
async def test_trouble_with_one_file_stops_no_other(
    tmp_path: Path, error: Exception, reason: str, asking: bool
) -> None:
    folders = {role: tmp_path / role for role in ("path", "outbox", "archive", "failed")}
    for folder in (*folders.values(), folders["outbox"] / ".i2vd"):
        folder.mkdir()
    for name in ("a.jpg", "bad.jpg", "c.jpg"):
        (folders["path"] / name).write_bytes(b"x")
    basket = Stubborn(error, asking=asking)
    watcher = watcher_of(Inbox(stability_delay=0.0, **folders), basket)
    await run_watcher(watcher, lambda: len(basket.taken) > 1)
    assert sorted(basket.taken) == ["a.jpg", "c.jpg"]
    assert watcher._health.blocked == {}
    assert watcher._waiting["bad.jpg"].reason == reason
    if reason == "unreadable":
        said = f"{folders['path'] / 'bad.jpg'} cannot be read: {str(error.args[1]).lower()}; "
        assert watcher._waiting["bad.jpg"].detail.startswith(said)
    assert basket.looks <= 1, "it is looked at again after a while"


async def test_a_file_in_trouble_is_listed_and_named_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skipped, "REPORT_AFTER_SECONDS", 0.05)
    (tmp_path / "bad.jpg").write_bytes(b"x")
    basket = Stubborn(RecursionError("too deep"))
    watcher = watcher_of(Inbox(path=tmp_path, stability_delay=0.0), basket)
    with capture_logs() as lines:
        await run_watcher(watcher, lambda: watcher.skipped.total > 0)
    about = [line["event"] for line in lines if line["path"] == "bad.jpg"]
    assert about == ["file not handled", "file skipped"]
    (file,) = (each for each in watcher.skipped.listed() if each.path == "bad.jpg")
    assert "RecursionError: too deep" in file.detail


async def test_a_queue_that_is_away_is_no_files_trouble(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"x")
    basket = Stubborn(QueueUnavailable("locked"))
    watcher = watcher_of(Inbox(path=tmp_path, stability_delay=0.0), basket)
    await run_watcher(watcher, lambda: watcher._health.blocked != {})
    assert watcher._waiting == {}


def test_an_unavailable_file_is_offered_after_ever_longer_delays() -> None:
    tracker, now, waits = StabilityTracker(0.0), 0.0, []
    tracker.observe(now, {"a.jpg": A})
    for _ in range(6):
        tracker.offer_with_backoff("a.jpg", now, 2.0, 20.0)
        due = tracker.next_due()
        assert due is not None
        waits.append(due - now)
        now = due
        assert tracker.observe(now, {"a.jpg": A}) == ["a.jpg"]
    assert waits == [2, 4, 8, 16, 20, 20]
    tracker.settle("a.jpg")
    tracker.offer_with_backoff("a.jpg", now, 2.0, 20.0)
    assert tracker.next_due() == now + 2


def test_a_change_of_mode_wakes_an_unavailable_file_alone() -> None:
    before, after = FileState(1, 1, ctime_ns=1), FileState(1, 1, ctime_ns=2)
    tracker = StabilityTracker(2.0)
    files = {"unavailable.jpg": before, "undecodable.jpg": before, "done.jpg": before}
    tracker.observe(0.0, files)
    tracker.observe(2.0, files)
    tracker.offer_with_backoff("unavailable.jpg", 2.0, 100.0, 100.0)
    tracker.offer_again(["undecodable.jpg"], 100.0)
    changed = dict.fromkeys(files, after)
    assert tracker.observe(3.0, changed) == []
    assert tracker.observe(5.0, changed) == ["unavailable.jpg"]


def test_the_backoff_is_the_interval_when_a_scan_is_cheap() -> None:
    assert scan_backoff(0.001, 2.0, None) == (0.004, 2.0)
    assert scan_backoff(0.001, 2.0, 0.5) == (0.004, 0.5)
    assert scan_backoff(0.0, 2.0, -1.0) == (0.0, 0.01)


@given(effort=st.floats(0.01, 10), until_due=st.none() | st.floats(-1, 5))
def test_scanning_leaves_most_of_a_core_free(effort: float, until_due: float | None) -> None:
    least, most = scan_backoff(effort, 2.0, until_due)
    assert least <= most
    assert effort / (effort + least) == pytest.approx(0.2)
    if until_due is None:
        assert effort / (effort + most) < 0.0501


def test_the_file_system_of_a_path_is_known() -> None:
    assert file_system(Path("/proc/self")) == "proc"
    assert file_system(Path("/")) != ""
