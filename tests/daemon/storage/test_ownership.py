"""Ownership: two queues with one set of folders, one of them at a time, and no picture twice."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from daemon.config.settings import Inbox, Settings
from daemon.jobs.database import Database
from daemon.jobs.store import JobStore
from daemon.storage.ownership import OWNER, SILENT_SECONDS, Ownership
from daemon.storage.volumes import ROLES, VolumeMarkers, VolumeMissing


class Clock:
    """Monotonic time that the test moves on; a file's time follows it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> Callable[[str], Ownership]:
    def queue(name: str) -> Ownership:
        return Ownership(lambda: name, f"queue of {name}", clock)

    return queue


Queue = Callable[[str], Ownership]


def work(clock: Clock, seconds: float, *looks: Callable[[], object]) -> list[object]:
    """Look every two seconds, as the daemon does; return the last answers."""
    answers: list[object] = []
    for _ in range(int(seconds / 2)):
        clock.now += 2
        answers = [look() for look in looks]
    return answers


def test_a_folder_has_one_owner_as_long_as_that_works(
    tmp_path: Path, clock: Clock, queue: Queue
) -> None:
    one, two = queue("one"), queue("two")
    assert one.claim(tmp_path) is None
    assert two.claim(tmp_path) == "queue of one"
    looks = (lambda: one.claim(tmp_path), lambda: two.claim(tmp_path))
    assert work(clock, 600, *looks) == [None, "queue of one"]


def test_what_is_silent_is_taken_over_and_notices_it(
    tmp_path: Path, clock: Clock, queue: Queue
) -> None:
    one, two = queue("one"), queue("two")
    one.claim(tmp_path)
    with structlog.testing.capture_logs() as logged:
        (early,) = work(clock, SILENT_SECONDS - 5, lambda: two.claim(tmp_path))
        (late,) = work(clock, 15, lambda: two.claim(tmp_path))
    assert (early, late) == ("queue of one", None)
    assert [line["event"] for line in logged] == ["folder taken over"]
    clock.now += 2
    assert one.claim(tmp_path) == "queue of two", "it comes back after a minute"


def test_hosts_of_one_queue_share_its_folders(tmp_path: Path, clock: Clock, queue: Queue) -> None:
    hosts = [queue("one") for _ in range(3)]
    looks = [lambda host=host: host.claim(tmp_path) for host in hosts]  # type: ignore[misc]
    assert work(clock, 60, *looks) == [None] * 3


def test_a_restart_waits_for_nothing(tmp_path: Path, queue: Queue) -> None:
    assert queue("one").claim(tmp_path) is None
    assert queue("one").claim(tmp_path) is None


def test_a_deleted_owner_file_is_written_again(tmp_path: Path, clock: Clock, queue: Queue) -> None:
    one = queue("one")
    one.claim(tmp_path)
    (tmp_path / OWNER).unlink()
    assert work(clock, 20, lambda: one.claim(tmp_path)) == [None]
    assert (tmp_path / OWNER).read_text() == "one\nqueue of one\n"


def test_where_times_cannot_be_set_the_file_is_written_anew(
    tmp_path: Path, clock: Clock, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = queue("one"), queue("two")
    one.claim(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refuse)
    looks = (lambda: one.claim(tmp_path), lambda: two.claim(tmp_path))
    assert work(clock, 120, *looks) == [None, "queue of one"]


@pytest.mark.parametrize(
    "put",
    [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("elsewhere")],
    ids=["folder", "pipe", "link"],
)
def test_something_else_in_its_place_is_reported(
    tmp_path: Path, queue: Queue, put: Callable[[Path], None]
) -> None:
    put(tmp_path / OWNER)
    before = len([*Path("/proc/self/fd").iterdir()])
    for _ in range(5):
        with pytest.raises(OSError, match=r"remove it|symbolic links") as caught:
            queue("one").claim(tmp_path)
        assert caught.value.filename == str(tmp_path / OWNER)
    assert len([*Path("/proc/self/fd").iterdir()]) == before


@pytest.mark.parametrize("content", [b"", b"\xff" * 10_000, b"one", b"\n\x1b[31m\nred"])
def test_any_content_is_a_name_at_most(
    tmp_path: Path, queue: Queue, clock: Clock, content: bytes
) -> None:
    (tmp_path / OWNER).write_bytes(content)
    two = queue("two")
    found = two.claim(tmp_path)
    assert found is not None
    assert found.isprintable()
    assert len(found) <= 200
    assert work(clock, 60, lambda: two.claim(tmp_path)) == [None]


# --- which queue is which


def settings_of(root: Path, state: str, **changes: str) -> Settings:
    folders = {role: root / role for role in ROLES}
    for folder in (*folders.values(), root / state):
        folder.mkdir(exist_ok=True)
    inbox = Inbox.model_validate({**folders, **changes})
    return Settings(inbox=(inbox,), state=root / state)


def markers_of(settings: Settings) -> VolumeMarkers:
    return VolumeMarkers(settings, Database(settings.queue_url))


def test_two_state_folders_do_not_work_on_one_set_of_folders(tmp_path: Path) -> None:
    one, two = (settings_of(tmp_path, state) for state in ("one", "two"))
    markers_of(one).check(one.inbox[0])
    other = markers_of(two)
    for role in ("path", "outbox"):
        with pytest.raises(VolumeMissing, match="used by another i2vd") as caught:
            other.check(two.inbox[0], role)
        assert str(tmp_path / "one" / "queue.sqlite") in str(caught.value)
    assert "used by another i2vd" in str(other.problem(two.inbox[0]))
    markers_of(one).check(one.inbox[0])


def test_a_state_folder_that_was_moved_and_a_queue_that_was_lost_are_the_same(
    tmp_path: Path,
) -> None:
    before = settings_of(tmp_path, "one")
    markers_of(before).check(before.inbox[0])
    (tmp_path / "one").rename(tmp_path / "moved")
    after = settings_of(tmp_path, "moved")
    markers_of(after).check(after.inbox[0])
    for file in (tmp_path / "moved").glob("queue*"):
        file.unlink()
    markers_of(after).check(after.inbox[0])


def test_pictures_that_stay_may_have_several_queues_with_an_outbox_each(tmp_path: Path) -> None:
    one, two = (
        settings_of(tmp_path, state, on_success="keep", outbox=str(tmp_path / f"clips of {state}"))
        for state in ("one", "two")
    )
    for settings in (one, two):
        settings.inbox[0].outbox.mkdir()
        markers_of(settings).check(settings.inbox[0])


def test_each_database_has_one_identity(database: Database, url: str, store: JobStore) -> None:
    again = Database(url)
    assert database.identity() == again.identity() == database.identity()
    again.close()
