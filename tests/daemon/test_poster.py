"""Posters: copied as they are and through no link, only of jobs that are, and not too many."""

from collections.abc import Callable
from pathlib import Path

import pytest

from daemon import poster
from daemon.history import History
from daemon.job import Job
from daemon.poster import POSTER, Posters
from daemon.settings import Inbox
from daemon.staging import make_empty
from pipeline.protocol import LARGEST_POSTER

PICTURE = b"\xff\xd8 not decoded \xff\xd9"


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    (tmp_path / "outbox").mkdir()
    return Inbox(path=tmp_path / "inbox", outbox=tmp_path / "outbox")


@pytest.fixture
def posters(tmp_path: Path) -> Posters:
    (tmp_path / "state").mkdir()
    return Posters(tmp_path / "state")


@pytest.fixture
def job(enqueue: Callable[..., list[int]], history: History) -> Job:
    (number,) = enqueue()
    found = history.job(number)
    assert found is not None
    return found


def numbered(job: Job, number: int) -> Job:
    return job.model_copy(update={"id": number})


def left(inbox: Inbox, job: Job, content: bytes = PICTURE) -> Path:
    """What the worker leaves in staging."""
    file = make_empty(inbox, job) / POSTER
    file.write_bytes(content)
    return file


def test_a_poster_is_kept_when_staging_is_gone(inbox: Inbox, posters: Posters, job: Job) -> None:
    assert not posters.take(inbox, job)
    file = left(inbox, job)
    assert posters.take(inbox, job)
    file.unlink()
    assert posters.of(job) == PICTURE
    assert posters.of(numbered(job, 77)) is None


@pytest.mark.parametrize("what", ["link", "folder", "empty", "too large"])
def test_what_a_stranger_puts_in_its_place_is_not_taken(
    inbox: Inbox, posters: Posters, job: Job, tmp_path: Path, what: str
) -> None:
    file = left(inbox, job, b"" if what == "empty" else b"x" * (LARGEST_POSTER + 1))
    if what in ("link", "folder"):
        file.unlink()
        (tmp_path / "secret").write_bytes(b"secret")
        file.symlink_to(tmp_path / "secret") if what == "link" else file.mkdir()
    assert not posters.take(inbox, job)
    assert posters.of(job) is None


def test_the_oldest_go_and_so_do_those_of_a_queue_that_is_gone(
    inbox: Inbox, posters: Posters, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poster, "KEPT", 3)
    monkeypatch.setattr(poster, "_BETWEEN", 5)
    for number in range(1, 6):
        left(inbox, numbered(job, number))
        assert posters.take(inbox, numbered(job, number))
    assert [n for n in range(1, 9) if posters.of(numbered(job, n))] == [3, 4, 5]
    (inbox.outbox.parent / "state" / "posters" / "5.part").write_bytes(b"of a crash")
    posters.tidy(newest=4)
    assert [n for n in range(1, 9) if posters.of(numbered(job, n))] == [3, 4]
    assert not list((inbox.outbox.parent / "state" / "posters").glob("*.part"))
