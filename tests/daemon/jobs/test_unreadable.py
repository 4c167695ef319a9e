"""Rows that are no jobs: each costs itself only."""

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from daemon.estimate.duration import DurationEstimator, queued_work
from daemon.jobs.database import Database, DatabaseUnusable
from daemon.jobs.job import UnreadableRow
from daemon.jobs.queries import JobFilter, JobQueries
from daemon.jobs.schema import jobs
from daemon.jobs.store import JobStore
from daemon.jobs.transitions import Changes
from daemon.jobs.unreadable import fail_unreadable
from tests.daemon.conftest import claim

Enqueue = Callable[..., list[int]]

DAMAGE: dict[str, str] = {
    "a key more in the spec": 'spec = \'{"prompt": "cat", "colour": 1}\'',
    "a spec that is no JSON": "spec = '{'",
    "a spec that is a list": "spec = '[1]'",
    "no spec": "spec = NULL",
    "a spec of JSON's null": "spec = 'null'",
    "a deeply nested spec": f"spec = '{'[' * 5000}{']' * 5000}'",
    "a large picture": "spec = json_set(spec, '$.width', 1000000000)",
    "a progress that is a number": "progress = '5'",
    "a progress without its stage": "progress = '{}'",
    "a result that is a text": "result = '\"x\"'",
    "a result out of its folder": 'result = \'{"clip": "../x.mp4"}\'',
    "half a character in a result": 'result = \'{"note": "\\ud800"}\'',
    "half a character in a prompt": "spec = json_set(spec, '$.prompt', json('\"\\ud800\"'))",
    "a number that is none": 'progress = \'{"stage":"x","step":1,"steps":2,"eta":NaN}\'',
    "an endless number": 'result = \'{"seconds": {"denoise": Infinity}}\'',
    "a step with odd keys": "fallbacks = '[{\"x\": 1}]'",
    "steps that are no list": "fallbacks = '7'",
    "a source that is a list": "source = '[]'",
    "an odd source": 'source = \'{"size": "x"}\'',
    "an unknown state": "state = 'weird'",
    "an unknown place": "picture_location = 'moon'",
    "a path out of the inbox": "path = '../../etc/passwd'",
    "an absolute path": "path = '/etc/passwd'",
    "a name out of the outbox": "clip_name = 'a/../../b'",
    "a place out of the archive": "picture_path = '../x'",
    "a word as the attempt": "attempt = 'many'",
    "a negative attempt": "attempt = -4",
    "an attempt beyond counting": "attempt = 9223372036854775807",
    "a word as the rung": "rung = 'low'",
    "a negative rung": "rung = -1",
    "endless time": "created = 9e999",
    "a word as the time": "created = 'yesterday'",
    "a word as the start": "started = 'soon'",
    "a word as the priority": "priority = 'high'",
    "bytes that are no text": "rule = CAST(x'ff' AS TEXT), sha256 = CAST(x'ff00' AS TEXT)",
}
JSON_COLUMNS = ("source", "overrides", "spec", "fallbacks", "progress", "result")
COLUMNS = [column.name for column in jobs.c if column.name != "id"]
DAMAGE |= {f"a BLOB as the {column}": f"\"{column}\" = x'ff'" for column in COLUMNS}
DAMAGE |= {f"a BLOB of JSON as the {column}": f"{column} = x'7b7d'" for column in JSON_COLUMNS}
DAMAGE |= {f"broken JSON in the {column}": f"{column} = '['" for column in JSON_COLUMNS}
DAMAGE |= {
    "a source with a path": 'source = \'{"path": "x"}\'',
    "a result too deep for the API": f"result = '{{\"x\": {'[' * 300}{']' * 300}}}'",
}
HARMLESS = ("bytes that are no text", "a BLOB as the cancel")
"""The latter is read as true."""
REPAIRED = (
    "a word as the attempt",
    "a word as the start",
    "a word as the priority",
    *(
        f"a BLOB as the {column}"
        for column in ("attempt", "error", "lease", "not_before", "owner", "priority", "started")
    ),
)
"""What a claim, or the test before it, sets anyway."""


@pytest.fixture
def database(tmp_path: Any) -> Any:
    opened = Database(f"sqlite:///{tmp_path}/queue.sqlite")
    yield opened
    opened.close()


def damage(database: Database, job: int, sql: str) -> None:
    with database.write() as db:
        db.exec_driver_sql(f"UPDATE jobs SET {sql} WHERE id = {job}")


def state(database: Database, job: int) -> Any:
    with database.read() as db:
        return db.execute(sa.text(f"SELECT state, error FROM jobs WHERE id = {job}")).one()


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_row_is_failed_by_its_number(
    database: Database, store: JobStore, queries: JobQueries, enqueue: Enqueue, kind: str
) -> None:
    enqueue("first.jpg", sha256="a1")
    (bad,) = enqueue("bad.jpg", sha256="a2")
    enqueue("last.jpg", sha256="a3")
    damage(database, bad, DAMAGE[kind])

    listed = [job.path for job in queries.newest()]
    assert {"first.jpg", "last.jpg"} <= set(listed)
    queries.newest(JobFilter(text="cat"))
    queries.queued()
    queries.counts()
    queries.waiting()
    queries.by_content("a2")
    queries.pending_archival()
    queries.oldest_queued()
    DurationEstimator.from_history(queries)

    failed = fail_unreadable(database, "me")
    if kind in HARMLESS:
        assert failed == []
        return
    assert failed == [bad]
    found = state(database, bad)
    assert found.state == "failed"
    assert found.error.startswith("its row cannot be read: ")
    assert fail_unreadable(database, "me") == []
    assert [claim(store).path, claim(store).path] == ["first.jpg", "last.jpg"]
    assert store.claim("me", 30) is None
    assert [event.event for event in queries.events(bad)] == ["queued", "failed"]


@pytest.mark.parametrize(
    "kind", [kind for kind in DAMAGE if "state" not in kind and kind not in HARMLESS + REPAIRED]
)
def test_a_row_damaged_at_the_last_moment_is_failed_when_it_is_claimed(
    database: Database, store: JobStore, enqueue: Enqueue, kind: str
) -> None:
    (bad,) = enqueue("bad.jpg", sha256="a2", priority=1)
    enqueue("good.jpg", sha256="a3")
    damage(database, bad, DAMAGE[kind] + ", not_before = 0, priority = 1")
    claimed = [job for job in (store.claim("me", 30), store.claim("me", 30)) if job]
    assert [job.path for job in claimed] == ["good.jpg"]
    assert state(database, bad).state == "failed"


@pytest.mark.parametrize("states", ["running", "publishing"])
def test_a_damaged_row_of_a_running_job_is_failed_after_a_crash(
    database: Database, store: JobStore, enqueue: Enqueue, states: str
) -> None:
    (bad,) = enqueue("bad.jpg")
    job = claim(store)
    if states == "publishing":
        store.begin_publication(job, {"sidecar_sha256": "x"})
    damage(database, bad, "result = '['")
    assert fail_unreadable(database, "me") == [bad]


def test_rows_that_cannot_be_read_end_no_page(
    database: Database, queries: JobQueries, enqueue: Enqueue
) -> None:
    old = [enqueue(f"{n}.jpg", sha256=f"a{n}")[0] for n in range(3)]
    for n in range(3, 9):
        damage(database, enqueue(f"{n}.jpg", sha256=f"a{n}")[0], "source = '['")
    (new,) = enqueue("9.jpg", sha256="a9")
    pages = [queries.newest(limit=2)]
    while len(pages[-1]) == 2:
        pages.append(queries.newest(limit=2, before=pages[-1][-1].id))
    assert [[job.id for job in page] for page in pages] == [[new, old[2]], [old[1], old[0]], []]
    assert [job.id for job in queries.waiting(4)] == [*old, new]
    assert len(queries.newest(limit=50)) == 4


STATES = ("queued", "running", "publishing", "done", "failed")


@pytest.mark.parametrize("in_state", STATES)
@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if "BLOB" in kind or "broken" in kind])
def test_a_damaged_row_is_left_out_in_every_state(
    database: Database, queries: JobQueries, enqueue: Enqueue, in_state: str, kind: str
) -> None:
    (bad,) = enqueue("bad.jpg", sha256="a2")
    enqueue("good.jpg", sha256="a3")
    damage(database, bad, f"owner = 'other', state = '{in_state}'")
    damage(database, bad, DAMAGE[kind])
    if kind != "a BLOB as the cancel":
        assert [job.path for job in queries.newest()] == ["good.jpg"]
        with pytest.raises(UnreadableRow, match="its row cannot be read: "):
            queries.job(bad)
    for asked in (JobFilter(text="cat"), JobFilter(text="g"), JobFilter(state="done")):
        queries.newest(asked)
    for read in (
        queries.counts,
        queries.waiting,
        queries.pending_archival,
        queries.oldest_queued,
        queries.active_attempts,
        lambda: queries.remote_jobs("me"),
        lambda: queries.last_taken("inbox", "bad.jpg"),
        lambda: queued_work(queries),
        lambda: Changes(database).after(0),
        lambda: DurationEstimator.from_history(queries),
    ):
        read()
    for _, rule, preset, _ in queries.outcomes():
        assert isinstance(rule, str)
        assert isinstance(preset, str)


@pytest.mark.parametrize(
    "damaged",
    [
        "'['",
        "json_set(spec, '$.width', 'wide')",
        "json_set(spec, '$.speed', json('[]'))",
        "json_remove(spec, '$.steps')",
        "json_set(spec, '$.frames', 1e300)",
    ],
)
def test_the_work_of_a_damaged_spec_is_not_counted(
    database: Database, queries: JobQueries, enqueue: Enqueue, damaged: str
) -> None:
    enqueue("good.jpg", sha256="a3")
    expected = queued_work(queries)
    (bad,) = enqueue("bad.jpg", sha256="a2")
    damage(database, bad, f"spec = {damaged}")
    assert queued_work(queries) == expected


@pytest.mark.parametrize("drop", ["x'ff'", "'first'"])
def test_a_picture_after_a_drop_without_number_is_queued(
    database: Database, queries: JobQueries, enqueue: Enqueue, drop: str
) -> None:
    (bad,) = enqueue("cat.jpg", sha256="a2")
    damage(database, bad, f'"drop" = {drop}')
    (new,) = enqueue("cat.jpg", sha256="a3")
    assert [job.id for job in queries.newest()] == [new]


def test_an_event_of_bytes_is_shown_all_the_same(
    database: Database, queries: JobQueries, enqueue: Enqueue
) -> None:
    (job,) = enqueue()
    with database.write() as db:
        db.exec_driver_sql("UPDATE events SET detail = x'ff'")
    assert [event.detail for event in queries.events(job)] == ["\ufffd"]
    assert [change.detail for change in Changes(database).after(0)] == ["\ufffd"]


def test_what_can_be_read_of_a_failed_row_is_shown(
    database: Database, queries: JobQueries, enqueue: Enqueue
) -> None:
    (bad,) = enqueue("bad.jpg")
    damage(database, bad, "spec = '{', progress = '5', attempt = 'many'")
    fail_unreadable(database, "me")
    job = queries.job(bad)
    assert job is not None
    assert (job.path, job.state, job.spec, job.attempt) == ("bad.jpg", "failed", None, 0)


@pytest.mark.parametrize("at", ["'abc'", "9e999", "''", "'{'", "x'ff'"])
def test_an_event_without_its_time_is_shown_all_the_same(
    database: Database, queries: JobQueries, enqueue: Enqueue, at: str
) -> None:
    (job,) = enqueue()
    with database.write() as db:
        db.exec_driver_sql(f"UPDATE events SET at = {at}")
    assert [(event.event, event.at) for event in queries.events(job)] == [("queued", 0.0)]
    assert [change.at for change in Changes(database).after(0)] == [0.0]


@pytest.mark.parametrize("key", ["schema_version", "oldest_schema"])
@pytest.mark.parametrize("value", ["abc", "", "-1", "1e3", "\u0661\u00b2"])
def test_a_queue_without_its_version_is_told(tmp_path: Path, key: str, value: str) -> None:
    url = f"sqlite:///{tmp_path}/other.sqlite"
    Database(url).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "other.sqlite")) as db, db:
        db.execute("UPDATE meta SET value = ? WHERE key = ?", (value, key))
    with pytest.raises(DatabaseUnusable, match="has no readable version"):
        Database(url)
