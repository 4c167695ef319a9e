"""Posters and previews: stored, read without symlinks, and swept."""

from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.config.settings import Inbox
from daemon.jobs.job import Job
from daemon.jobs.queries import JobQueries
from daemon.publish.posters import POSTER, POSTERS, Posters, read_poster, remove_old_posters
from daemon.publish.previews import read_preview, store_preview
from daemon.publish.staging import create_staging, remove_staging
from pipeline.children.protocol import MAX_POSTER_BYTES

PICTURE = b"\xff\xd8 not decoded \xff\xd9"


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    (tmp_path / "outbox").mkdir()
    return Inbox(path=tmp_path / "inbox", outbox=tmp_path / "outbox")


@pytest.fixture
def posters() -> Posters:
    return Posters()


@pytest.fixture
def job(enqueue: Callable[..., list[int]], queries: JobQueries) -> Job:
    (number,) = enqueue()
    found = queries.job(number)
    assert found is not None
    return found


def numbered(job: Job, number: int) -> Job:
    return job.model_copy(update={"id": number})


def left(inbox: Inbox, job: Job, content: bytes = PICTURE) -> Path:
    """The poster that the worker writes to staging."""
    file = create_staging(inbox, job) / POSTER
    file.write_bytes(content)
    return file


def test_a_poster_is_kept_when_staging_is_gone(inbox: Inbox, posters: Posters, job: Job) -> None:
    assert not posters.store(inbox, job)
    left(inbox, job)
    assert posters.store(inbox, job)
    remove_staging(inbox, job)
    assert posters.store(inbox, job), "another host takes the publication over"
    assert read_poster(inbox, job) == PICTURE
    assert read_poster(inbox, numbered(job, 77)) is None


@pytest.mark.parametrize("what", ["link", "folder", "empty", "too large"])
def test_what_a_stranger_puts_in_its_place_is_not_taken(
    inbox: Inbox, posters: Posters, job: Job, tmp_path: Path, what: str
) -> None:
    file = left(inbox, job, b"" if what == "empty" else b"x" * (MAX_POSTER_BYTES + 1))
    if what in ("link", "folder"):
        file.unlink()
        (tmp_path / "secret").write_bytes(b"secret")
        file.symlink_to(tmp_path / "secret") if what == "link" else file.mkdir()
    assert not posters.store(inbox, job)
    assert read_poster(inbox, job) is None


def test_no_poster_is_written_or_read_through_a_link(
    inbox: Inbox, posters: Posters, job: Job, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    left(inbox, job)
    (inbox.outbox / POSTERS).symlink_to(tmp_path / "elsewhere")
    assert not posters.store(inbox, job)
    (tmp_path / "elsewhere" / f"{job.id}.jpg").write_bytes(PICTURE)
    assert read_poster(inbox, job) is None
    remove_old_posters(inbox.outbox, newest=0)
    assert [file.name for file in (tmp_path / "elsewhere").iterdir()] == [f"{job.id}.jpg"]


def test_a_preview_is_the_newest_and_goes_through_no_link(
    inbox: Inbox, job: Job, tmp_path: Path
) -> None:
    store_preview(inbox, job, PICTURE)
    assert read_preview(inbox, job) is None, "its staging is gone"
    staging, secret = create_staging(inbox, job), tmp_path / "secret"
    secret.write_bytes(b"secret")
    for name in ("preview.jpg", "preview.jpg.part"):
        (staging / name).symlink_to(secret)
    assert read_preview(inbox, job) is None
    for content in (b"first", PICTURE):
        store_preview(inbox, job, content)
        assert read_preview(inbox, job) == content
    assert secret.read_bytes() == b"secret"


def test_the_oldest_go_and_so_do_those_of_a_queue_that_is_gone(
    inbox: Inbox, posters: Posters, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.publish.posters.MAX_POSTERS", 3)
    monkeypatch.setattr("daemon.publish.posters._SWEEP_EVERY", 5)
    for number in range(1, 6):
        left(inbox, numbered(job, number))
        assert posters.store(inbox, numbered(job, number))
    assert [n for n in range(1, 9) if read_poster(inbox, numbered(job, n))] == [3, 4, 5]
    (inbox.outbox / POSTERS / "of others.jpg").write_bytes(b"")
    remove_old_posters(inbox.outbox, newest=4)
    assert [n for n in range(1, 9) if read_poster(inbox, numbered(job, n))] == [3, 4]
