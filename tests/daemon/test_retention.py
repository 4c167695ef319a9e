"""Retention: what is forgotten, what is not, and that nothing is made again for it."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from daemon.config.settings import Inbox, Queue, Settings
from daemon.jobs.database import Database
from daemon.jobs.job import Location
from daemon.jobs.pruning import Pruning
from daemon.jobs.queries import JobQueries
from daemon.jobs.schema import events, jobs
from daemon.jobs.store import JobStore
from daemon.retention import Retention
from daemon.storage.folder_threads import FolderThreads
from daemon.storage.volumes import MARKER, ROLES, VolumeMarkers
from tests.daemon.conftest import claim

Enqueue = Callable[..., list[int]]
_DAY = 86_400.0


@pytest.fixture
def finish(database: Database, store: JobStore, enqueue: Enqueue) -> Callable[..., int]:
    """Make a clip of a picture, some days ago."""

    def finish(
        path: str, days: float, location: Location = "archive", fingerprint: str = "1"
    ) -> int:
        enqueue(path, fingerprint=fingerprint)
        job = claim(store)
        assert store.begin_publication(job, {"clip": f"{path}.mp4"})
        assert store.done(job, {"clip": f"{path}.mp4"})
        store.moved(job, location)
        with database.write() as db:
            then = {name: jobs.c[name] - days * _DAY for name in ("created", "finished")}
            db.execute(jobs.update().where(jobs.c.id == job.id).values(then))
        return job.id

    return finish


def retention(
    database: Database, root: Path, delivered: int | None = None, **limits: float
) -> Retention:
    """Retention for one inbox below `root`."""
    folders = {role: root / role for role in ROLES}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    inbox = Inbox.model_validate({**folders, "on_success": "keep"})
    settings = Settings(inbox=(inbox,), queue=Queue.model_validate(limits))
    markers, threads = VolumeMarkers(settings, database), FolderThreads(settings.inbox)
    return Retention(settings, database, markers, threads, lambda: delivered)


def prune(database: Database, root: Path, delivered: int | None = None, **limits: float) -> int:
    """Prune once; return how many jobs were removed."""
    return asyncio.run(retention(database, root, delivered, **limits).prune())


def remaining(queries: JobQueries) -> list[str]:
    return [job.path for job in reversed(queries.newest())]


def test_what_is_older_than_its_days_is_removed_with_its_events(
    database: Database, queries: JobQueries, finish: Callable[..., int], tmp_path: Path
) -> None:
    old = finish("old.jpg", 31)
    new = finish("new.jpg", 29)
    assert prune(database, tmp_path, keep_days=30) == 1
    assert remaining(queries) == ["new.jpg"]
    assert not queries.events(old)
    assert queries.events(new)


def test_the_newest_of_many_stay_and_all_of_a_week(
    database: Database, queries: JobQueries, finish: Callable[..., int], tmp_path: Path
) -> None:
    for number in range(4):
        finish(f"{number}.jpg", 30)
    for number in range(4, 6):
        finish(f"{number}.jpg", 6)
    assert prune(database, tmp_path, keep_jobs=3) == 3
    assert remaining(queries) == ["3.jpg", "4.jpg", "5.jpg"]
    assert prune(database, tmp_path, keep_jobs=0) == 1
    assert remaining(queries) == ["4.jpg", "5.jpg"], "younger than a week"


def test_without_limits_nothing_is_forgotten(database: Database, tmp_path: Path) -> None:
    keeping = retention(database, tmp_path)
    assert not keeping.is_limited
    asyncio.run(keeping.run())  # ends at once


def test_a_picture_in_its_inbox_is_remembered_however_old(
    database: Database, store: JobStore, finish: Callable[..., int], tmp_path: Path
) -> None:
    keeping = retention(database, tmp_path, keep_days=30)
    picture = tmp_path / "path" / "cat.jpg"
    picture.write_bytes(b"cat")
    finish("cat.jpg", 400, "kept")
    assert asyncio.run(keeping.prune()) == 0
    assert store.without_job("inbox", {"cat.jpg": "1"}) == [], "it would be made again"

    share = tmp_path / "path"
    share.rename(tmp_path / "unmounted")
    share.mkdir()
    assert not (share / MARKER).exists()
    assert asyncio.run(keeping.prune()) == 0, "its share is away"
    share.rmdir()
    (tmp_path / "unmounted").rename(share)

    picture.unlink()
    assert asyncio.run(keeping.prune()) == 1
    picture.write_bytes(b"cat")
    assert store.without_job("inbox", {"cat.jpg": "1"}) == ["cat.jpg"], "a new drop"


def test_open_jobs_and_pictures_that_must_still_move_stay(
    database: Database, queries: JobQueries, store: JobStore, finish: Callable[..., int],
    enqueue: Enqueue, tmp_path: Path,
) -> None:  # fmt: skip
    finish("unmoved.jpg", 400, "inbox")
    enqueue("waiting.jpg")
    with database.write() as db:
        db.execute(jobs.update().values(created=1.0))
    assert prune(database, tmp_path, keep_days=7, keep_jobs=0) == 0
    assert remaining(queries) == ["unmoved.jpg", "waiting.jpg"]


def test_no_number_is_given_twice(
    database: Database, queries: JobQueries, finish: Callable[..., int], tmp_path: Path
) -> None:
    first = finish("first.jpg", 30)
    newest = max(_numbers(database))
    assert prune(database, tmp_path, keep_days=7) == 1
    assert finish("second.jpg", 0) > first, "staging, posters and idempotency keys rely on it"
    assert min(_numbers(database)) > newest, "webhooks rely on it"


def _numbers(database: Database) -> list[int]:
    with database.read() as db:
        return [*db.scalars(sa.select(events.c.id))]


def test_what_was_removed_is_still_counted(
    database: Database, queries: JobQueries, finish: Callable[..., int], tmp_path: Path
) -> None:
    for number in range(3):
        finish(f"{number}.jpg", 30)
    before = queries.counts(), queries.outcomes()
    finish("new.jpg", 0)
    assert prune(database, tmp_path, keep_days=7) == 3
    assert queries.counts() == before[0] | {"done": 4}
    assert queries.outcomes() == [("done", "90-default", "draft", 4)], "a counter never falls"


def test_what_a_webhook_has_not_reported_stays(
    database: Database, queries: JobQueries, finish: Callable[..., int], tmp_path: Path
) -> None:
    finish("reported.jpg", 30)
    reported = max(_numbers(database))
    finish("unreported.jpg", 30)
    assert prune(database, tmp_path, reported, keep_days=7) == 1
    assert remaining(queries) == ["unreported.jpg"]


def test_a_long_history_goes_in_small_steps_and_the_file_shrinks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "queue.sqlite"
    database = Database(f"sqlite:///{file}")
    row = {
        "inbox": "inbox", "drop": 1, "variant": 1, "sha256": "", "fingerprint": "", "source": {},
        "clip_name": "", "state": "done", "picture_location": "archive", "created": 1.0,
        "finished": 2.0, "rule": "r" * 500,
    }  # fmt: skip
    with database.write() as db:
        db.execute(jobs.insert(), [row | {"path": f"{number}.jpg"} for number in range(1200)])
    steps: list[int] = []
    remove = Pruning.remove

    def count(self: Pruning, among: list[int], delivered: int | None) -> int:
        steps.append(len(among))
        return remove(self, among, delivered)

    monkeypatch.setattr(Pruning, "remove", count)
    monkeypatch.setattr("daemon.retention._PAUSE_RATIO", 0.0)
    monkeypatch.setattr("daemon.retention._MIN_PAUSE_SECONDS", 0.0)
    assert prune(database, tmp_path, keep_days=7) == 1200
    assert max(steps) <= 50
    database.close()  # the write-ahead log goes into the file
    assert file.stat().st_size < 200_000


def test_to_open_a_queue_writes_nothing(tmp_path: Path) -> None:
    """A pragma that lets a new file shrink would be a write at each connection."""
    file = tmp_path / "queue.sqlite"
    Database(f"sqlite:///{file}").close()
    before = file.read_bytes()
    again = Database(f"sqlite:///{file}")
    assert JobQueries(again).counts()["done"] == 0
    again.close()
    changed = [n for n, (a, b) in enumerate(zip(before, file.read_bytes(), strict=True)) if a != b]
    assert not changed
