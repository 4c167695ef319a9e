"""Job store: one drop is one job, one claim wins, no job is lost or done twice."""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from daemon.fs.fingerprint import FileState
from daemon.jobs.claim_filter import ClaimFilter
from daemon.jobs.database import Database, DatabaseUnusable
from daemon.jobs.job import Drop, Job
from daemon.jobs.operator import Operator
from daemon.jobs.queries import JobFilter, JobQueries
from daemon.jobs.recovery import Recovery
from daemon.jobs.schema import jobs, meta, metadata
from daemon.jobs.store import JobStore
from pipeline.memory.modes import Mode
from pipeline.request.spec import Spec
from pipeline.sidecar import Fallback, Tried
from tests.daemon.conftest import claim

STEP = Fallback(
    tried=Tried(width=64, height=64, frames=8, mode=Mode.RESIDENT), stage="denoise", reason="full"
)

Enqueue = Callable[..., list[int]]


@contextlib.contextmanager
def counted(database: Database, count: Callable[[], None]) -> Iterator[None]:
    """Call `count` after every ten steps of the SQLite virtual machine."""
    with database.read() as db:
        connection = db.connection.driver_connection  # the only one; it stays in the pool
    assert connection is not None
    connection.set_progress_handler(count, 10)
    yield
    connection.set_progress_handler(None, 10)


# --- due jobs


def test_a_clock_that_was_set_back_delays_no_job(
    store: JobStore, database: Database, enqueue: Enqueue
) -> None:
    enqueue()
    store.retry_later(claim(store), "broke", delay=60)
    assert store.claim("me", 30) is None
    with database.write() as db:  # as if both had been written a day ahead
        db.execute(
            jobs.update().values(
                started=jobs.c.started + 86_400, not_before=jobs.c.not_before + 86_400
            )
        )
    assert claim(store).id == 1


def test_jobs_of_a_blocked_inbox_are_not_claimed(store: JobStore, enqueue: Enqueue) -> None:
    enqueue()
    assert store.claim("me", 30, without=["inbox"]) is None
    assert store.claim("me", 30, without=["other"]) is not None


# --- one drop, one job


def test_one_drop_seen_twice_is_one_job(store: JobStore, enqueue: Enqueue) -> None:
    assert enqueue() == [1]
    assert enqueue() == []
    assert store.without_job("inbox", {"cat.jpg": "1"}) == []
    assert store.without_job("inbox", {"cat.jpg": "2"}) == ["cat.jpg"]


def test_without_job_keeps_the_order_of_the_files(store: JobStore, enqueue: Enqueue) -> None:
    enqueue("b.jpg", "1", variants=3)
    enqueue("c.jpg", "1")
    enqueue("c.jpg", "2", "bb")
    found = {"d.jpg": "1", "c.jpg": "2", "b.jpg": "1", "a.jpg": "1"}
    assert store.without_job("inbox", found) == ["d.jpg", "a.jpg"]
    assert store.without_job("other", found) == list(found)
    assert store.without_job("inbox", {"c.jpg": "1"}) == ["c.jpg"]


def test_a_picture_that_was_archived_and_dropped_again_is_a_new_job(
    store: JobStore, enqueue: Enqueue
) -> None:
    enqueue()
    job = claim(store)
    store.begin_publication(job, {})
    store.done(job, {})
    store.moved(job, "archive", "a/cat.jpg")
    assert store.without_job("inbox", {"cat.jpg": "1"}) == ["cat.jpg"]
    assert enqueue() == [2]


def test_touching_a_waiting_picture_does_not_make_a_second_job(
    store: JobStore, enqueue: Enqueue
) -> None:
    enqueue(fingerprint="1")
    assert enqueue(fingerprint="2") == []
    assert store.without_job("inbox", {"cat.jpg": "2"}) == []


def test_other_content_at_the_same_path_replaces_queued_jobs(
    store: JobStore, queries: JobQueries, enqueue: Enqueue
) -> None:
    enqueue(fingerprint="1", sha256="aa")
    assert enqueue(fingerprint="2", sha256="bb") == [2]
    old = queries.job(1)
    assert old is not None
    assert old.state == "cancelled"
    assert claim(store).id == 2


@pytest.fixture
def keep(store: JobStore) -> Callable[[], None]:
    """Finish the next job, and keep its picture in the inbox."""

    def keep() -> None:
        job = claim(store)
        store.begin_publication(job, {})
        store.done(job, {})
        store.moved(job, "kept")

    return keep


def test_a_kept_picture_is_known_by_path_size_and_mtime(
    store: JobStore, enqueue: Enqueue, make_drop: Callable[..., Drop], keep: Callable[[], None]
) -> None:
    seen = FileState(1, 2, ctime_ns=3).fingerprint
    enqueue(fingerprint=seen)
    keep()
    again = FileState(1, 2, ctime_ns=4).fingerprint  # copied, restored, or seen by another host
    assert store.without_job("inbox", {"cat.jpg": again}) == []
    assert enqueue(fingerprint=again) == []
    assert store.reject(make_drop(fingerprint=again), "broken") is None
    assert store.without_job("inbox", {"cat.jpg": FileState(1, 3).fingerprint}) == ["cat.jpg"]


def test_a_kept_picture_that_was_touched_is_recognised_by_its_content(
    store: JobStore, queries: JobQueries, enqueue: Enqueue, make_drop: Callable[..., Drop],
    keep: Callable[[], None],
) -> None:  # fmt: skip
    enqueue(fingerprint="5-1", sha256="aa")
    keep()
    assert store.recognise(make_drop(fingerprint="5-2", sha256="aa"))
    assert store.without_job("inbox", {"cat.jpg": "5-2"}) == []
    assert enqueue(fingerprint="5-3", sha256="aa") == []
    assert store.without_job("inbox", {"cat.jpg": "5-3"}) == []
    assert not store.recognise(make_drop(fingerprint="5-4", sha256="bb"))
    assert enqueue(fingerprint="5-4", sha256="bb") == [2], "another content of the same size"
    assert not store.recognise(make_drop("dog.jpg", "5-3", "aa")), "another path"


def test_the_content_of_an_archived_picture_dropped_again_is_news(
    store: JobStore,
    operator: Operator,
    enqueue: Enqueue,
    make_drop: Callable[..., Drop],
    keep: Callable[[], None],
) -> None:
    enqueue(fingerprint="5-1", sha256="aa")
    keep()
    job = store.claim("me", 30)
    assert job is None
    assert store.without_job("inbox", {"cat.jpg": "5-1"}) == []
    enqueue("dog.jpg", "5-1", "cc")
    operator.cancel(2)
    assert not store.recognise(make_drop("dog.jpg", "5-2", "cc")), "it has no clip"


def test_touching_a_picture_one_of_whose_variants_failed_replaces_no_other(
    store: JobStore, queries: JobQueries, enqueue: Enqueue
) -> None:
    enqueue(fingerprint="5-1", sha256="aa", variants=2)
    store.fail(claim(store), "broke")
    assert enqueue(fingerprint="5-2", sha256="aa") == []
    second = queries.job(2)
    assert second is not None
    assert second.state == "queued"


def test_two_hosts_that_enter_a_drop_at_once_enter_it_once(
    database: Database,
    store: JobStore,
    queries: JobQueries,
    enqueue: Enqueue,
    make_drop: Callable[..., Drop],
) -> None:
    """One host reads before the other has committed, and inserts afterwards."""
    waiting = ThreadPoolExecutor()
    for path, enter in (
        ("a.jpg", lambda: enqueue("a.jpg")),
        ("b.jpg", lambda: store.reject(make_drop("b.jpg"), "broken")),
    ):
        with database.write() as db:
            row = {**make_drop(path).model_dump(), "drop": 1, "variant": 1, "clip_name": ""}
            db.execute(jobs.insert().values(**row, state="failed", created=1.0))
            late = waiting.submit(enter)
            with contextlib.suppress(TimeoutError):
                late.result(0.3)
        assert not late.result()
    assert [job.path for job in queries.newest()] == ["b.jpg", "a.jpg"]


def test_a_kept_picture_is_enqueued_again_only_when_it_changes(
    store: JobStore, enqueue: Enqueue
) -> None:
    enqueue(fingerprint="1")
    job = claim(store)
    store.begin_publication(job, {})
    store.done(job, {})
    assert enqueue(fingerprint="1") == []
    assert enqueue(fingerprint="2", sha256="bb") == [2]


def test_a_rejected_picture_is_recorded_once(
    store: JobStore, make_drop: Callable[..., Drop]
) -> None:
    assert store.reject(make_drop(), "broken") == 1
    assert store.reject(make_drop(), "broken") is None


def test_eight_threads_enqueue_one_drop_once(store: JobStore, enqueue: Enqueue) -> None:
    made: list[int] = []
    threads = [threading.Thread(target=lambda: made.extend(enqueue())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]


# --- claims


def test_claims_follow_arrival_across_inboxes(store: JobStore, enqueue: Enqueue) -> None:
    enqueue("a.jpg", inbox="cats")
    enqueue("b.jpg", inbox="cats")
    enqueue("c.jpg", inbox="dogs")
    enqueue("d.jpg", inbox="cats")
    enqueue("e.jpg", inbox="dogs", priority=1)
    assert [claim(store).path for _ in range(5)] == ["e.jpg", *(f"{x}.jpg" for x in "abcd")]


def test_a_device_skips_jobs_that_only_a_larger_device_can_run(
    store: JobStore, enqueue: Enqueue
) -> None:
    small, large, huge = 10, 20, 40
    enqueue("large.jpg", required_memory=large)
    enqueue("small.jpg", required_memory=small)
    enqueue("old.jpg")
    enqueue("huge.jpg", required_memory=huge)
    another = ClaimFilter(small, {"inbox": large, "other": huge})
    for path in ("small.jpg", "old.jpg", "huge.jpg"):  # no device can run the last one as requested
        job = store.claim("me", 30, claim_filter=another)
        assert job is not None
        assert job.path == path
    assert store.claim("me", 30, claim_filter=another) is None
    assert store.claim("me", 30, claim_filter=ClaimFilter(small, {"inbox": large})) is None
    alone = store.claim("me", 30, claim_filter=ClaimFilter(small, {"inbox": 0, "other": huge}))
    assert alone is not None, "no other device accepts jobs of its inbox"
    enqueue("again.jpg", required_memory=large)
    assert store.claim("me", 30, claim_filter=ClaimFilter(large, {"inbox": huge})) is not None


def test_a_device_that_skips_jobs_claims_the_others_in_order(
    store: JobStore, enqueue: Enqueue
) -> None:
    small, large, huge = 10, 20, 40
    enqueue("a.jpg", required_memory=small)
    enqueue("b.jpg", required_memory=small - 1, priority=5)
    enqueue("c.jpg", required_memory=large, priority=9)
    enqueue("d.jpg", priority=5)
    enqueue("e.jpg", required_memory=huge, priority=1)
    enqueue("f.jpg", required_memory=large, inbox="other")
    fit = ClaimFilter(small, {"inbox": large, "other": small})
    for path in ("b.jpg", "d.jpg", "e.jpg", "a.jpg", "f.jpg"):
        job = store.claim("me", 30, claim_filter=fit)
        assert job is not None
        assert job.path == path
    assert store.claim("me", 30, claim_filter=fit) is None


@pytest.mark.parametrize("fit", [None, ClaimFilter(10, {"inbox": 20})], ids=["all", "what fits"])
def test_a_claim_reads_no_more_rows_when_more_jobs_are_queued(
    tmp_path: Path, spec: Spec, make_drop: Callable[..., Drop], fit: ClaimFilter | None
) -> None:
    """SQLite once sorted all queued jobs."""
    database = Database(f"sqlite:///{tmp_path}/queue.sqlite")
    store, steps = JobStore(database), Counter[str]()

    def add(number: int, need: int) -> None:
        drop = make_drop(f"{need}-{number}.jpg")
        store.enqueue(
            drop, [spec], required_memory=[need], clip_name="", rule=None, rules_digest=""
        )

    for when, more in (("few wait", 5), ("many wait", 500)):
        for number in range(more):
            add(number + more, 20)
        add(more, 10)
        with counted(database, lambda when=when: steps.update([when])):
            assert store.claim("me", 30, claim_filter=fit) is not None
    database.close()
    assert 0 < steps["many wait"] < 2 * steps["few wait"]


def test_a_claim_reads_few_pages_of_the_queue_index(
    database: Database, store: JobStore, enqueue: Enqueue
) -> None:
    """PostgreSQL once read all of an index whose first column had one value."""
    if not database.shared:
        pytest.skip("SQLite's steps are counted above")
    enqueue("large.jpg", required_memory=20)
    enqueue("small.jpg", required_memory=10)
    same = ", ".join(f'"{each.name}"' for each in jobs.c if each.name not in ("id", "path"))
    with database.write() as db:
        db.exec_driver_sql(
            f"insert into jobs (path, {same}) select path || n, {same} from jobs, "
            f"generate_series(1, 10000) n where path = 'large.jpg'"
        )
        db.exec_driver_sql("analyze jobs")
    said = list[tuple[str, Any]]()

    def listen(*told: Any) -> None:
        said.append(told[2:4])

    sa.event.listen(sa.Engine, "before_cursor_execute", listen)
    try:
        assert store.claim("me", 30, claim_filter=ClaimFilter(10, {"inbox": 20})) is not None
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", listen)
    asked = [each for each in said if each[0].startswith(("SELECT", "WITH"))]
    assert len(asked) == 3
    with database.read() as db:
        pages = db.exec_driver_sql("select pg_relation_size('jobs_next_by_memory') / 8192").scalar()
        for statement, values in asked:
            told = f"explain (analyze, buffers, format json) {statement}"
            plan = db.exec_driver_sql(told, values).scalar_one()[0]["Plan"]
            assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < (pages or 0) / 2


def test_claims_follow_priority_then_arrival(store: JobStore, enqueue: Enqueue) -> None:
    enqueue("a.jpg")
    enqueue("b.jpg", priority=5)
    enqueue("c.jpg", priority=5)
    assert [claim(store).path for _ in range(3)] == ["b.jpg", "c.jpg", "a.jpg"]
    assert store.claim("me", 30) is None


def test_eight_threads_claim_every_job_once(store: JobStore, enqueue: Enqueue) -> None:
    for number in range(40):
        enqueue(f"{number}.jpg")
    claimed: list[int] = []

    def work() -> None:
        while (job := store.claim(threading.current_thread().name, 30)) is not None:
            claimed.append(job.id)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == list(range(1, 41))


def test_nothing_is_claimed_while_paused_and_pause_is_durable(
    store: JobStore, database: Database, operator: Operator, enqueue: Enqueue
) -> None:
    enqueue()
    operator.pause(True)
    assert Operator(database).paused()
    assert store.claim("me", 30) is None
    operator.pause(False)
    assert store.claim("me", 30) is not None


def test_a_retry_counts_and_is_delayed_and_a_release_is_not(
    store: JobStore, enqueue: Enqueue
) -> None:
    enqueue()
    job = claim(store)
    assert store.release(job, "stopped")
    job = claim(store)
    assert job.failures == 0
    assert store.retry_later(job, "broke", 1000)
    assert store.claim("me", 30) is None


def test_the_rung_outlives_the_attempt(store: JobStore, enqueue: Enqueue) -> None:
    enqueue()
    job = claim(store)
    assert store.fall_back(job, 3, [STEP])
    store.release(job, "stopped")
    again = claim(store)
    assert (again.rung, again.fallbacks) == (3, [STEP])


# --- several hosts


def test_a_host_claims_only_from_inboxes_that_it_knows(store: JobStore, enqueue: Enqueue) -> None:
    enqueue()
    assert store.claim("me", 30, among=["other"]) is None
    assert store.claim("me", 30, among=["other", "inbox"]) is not None


def test_an_advisory_lock_has_one_holder(database: Database, url: str) -> None:
    other = Database(url) if database.shared else database
    with (
        database.advisory_lock("a") as mine,
        other.advisory_lock("a") as theirs,
        other.advisory_lock("b") as another,
    ):
        assert (mine, theirs, another) == (True, False, True)
    with other.advisory_lock("a") as theirs:
        assert theirs
    other.close()


def test_each_statement_is_planned_for_its_own_values(database: Database) -> None:
    """A generic plan would read the whole history for one running job."""
    if not database.shared:
        pytest.skip("SQLite looks at the values")
    recovery = Recovery(database)
    for _ in range(10):
        assert recovery.recover_departed("me") == []
    with database.read() as db:
        assert db.exec_driver_sql("select count(*) from pg_prepared_statements").scalar() == 0


def test_an_advisory_lock_can_be_awaited(database: Database, url: str) -> None:
    other, order = Database(url) if database.shared else database, list[str]()

    def theirs() -> None:
        with other.advisory_lock("a", wait=True) as turn:
            order.append(f"theirs {turn}")

    with database.advisory_lock("a", wait=True):
        waiting = threading.Thread(target=theirs)
        waiting.start()
        waiting.join(0.2)
        order.append("mine")
    waiting.join()
    assert order == ["mine", "theirs True"]
    other.close()


# --- endings


def test_a_clip_past_the_fence_is_published_never_undone(
    store: JobStore, database: Database, queries: JobQueries, enqueue: Enqueue
) -> None:
    enqueue()
    job = claim(store)
    assert store.begin_publication(job, {"x": 1})
    assert Recovery(database).recover("me") == []
    assert [found.id for found in queries.unpublished("me")] == [job.id]
    assert queries.unpublished("other") == []
    assert store.done(job, {"clip": "o/cat.mp4"})
    assert not store.done(job, {"clip": "o/again.mp4"})
    finished = queries.job(job.id)
    assert finished is not None
    assert finished.result == {"clip": "o/cat.mp4"}


def test_archival_is_pending_once_the_last_variant_has_ended(
    store: JobStore, queries: JobQueries, enqueue: Enqueue
) -> None:
    assert len(enqueue(variants=2)) == 2
    store.fail(claim(store), "broke")
    assert queries.pending_archival() == []
    second = claim(store)
    store.begin_publication(second, {})
    store.done(second, {})
    assert len(queries.pending_archival()) == 2
    store.moved(second, "archive", "a/cat.jpg")
    assert queries.pending_archival() == []


def test_pending_archival_does_not_read_a_long_history(
    tmp_path: Path, make_drop: Callable[..., Drop]
) -> None:
    database = Database(f"sqlite:///{tmp_path}/queue.sqlite")
    store, queries, steps = JobStore(database), JobQueries(database), Counter[str]()
    for when, more in (("short", 5), ("long", 500)):
        for number in range(more):
            store.reject(make_drop(f"{when}-{number}.jpg"), "no picture")
            for job in queries.pending_archival():
                store.moved(job, "failed", job.path)
        store.reject(make_drop(f"{when}-left.jpg"), "no picture")
        with counted(database, lambda when=when: steps.update([when])):
            (left,) = queries.pending_archival()
        store.moved(left, "failed", left.path)
    database.close()
    assert 0 < steps["long"] < 2 * steps["short"]


def test_cancel_ends_a_queued_job_and_signals_a_running_one(
    store: JobStore, operator: Operator, queries: JobQueries, enqueue: Enqueue
) -> None:
    enqueue("a.jpg")
    enqueue("b.jpg")
    running = claim(store)
    assert operator.cancel(running.id)
    assert operator.cancel(2)
    assert store.renew(running, 30, None) == "cancel"
    assert queries.counts()["cancelled"] == 1
    assert store.cancelled(running, "asked")
    assert not operator.cancel(running.id)


def test_retry_restores_all_tries_but_only_with_the_picture(
    store: JobStore, operator: Operator, enqueue: Enqueue
) -> None:
    enqueue()
    store.fail(job := claim(store), "broke")
    store.moved(job, "failed", "f/cat.jpg")
    assert not operator.retry(job.id, lambda _: None)
    assert store.claim("me", 30) is None
    assert operator.retry(job.id, lambda _: "1")
    again = claim(store)
    assert (again.id, again.failures, again.picture_location) == (job.id, 0, "inbox")
    assert not operator.retry(job.id, lambda _: "1")


def test_queries_return_events_and_outcomes(
    store: JobStore, queries: JobQueries, enqueue: Enqueue
) -> None:
    enqueue()
    job = claim(store)
    store.fall_back(job, 1, [STEP])
    store.begin_publication(job, {})
    store.done(job, {"clip": "o/cat.mp4"})
    assert [event.event for event in queries.events(job.id)] == [
        "queued", "running", "fell_back", "publishing", "done",
    ]  # fmt: skip
    assert queries.outcomes() == [("done", "90-default", "draft", 1)]
    assert queries.by_path("inbox", "cat.jpg")[0].id == job.id
    assert queries.by_content("aa")[0].id == job.id
    assert queries.oldest_queued() is None
    assert [found.id for found in queries.newest(JobFilter(state="done"))] == [job.id]
    assert queries.newest(before=job.id) == []


# --- the database itself


def test_a_file_that_is_no_database_is_refused_and_not_changed(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_text("a letter to my mother, not a database" * 100)
    with pytest.raises(DatabaseUnusable, match=r"x\.sqlite"):
        Database(f"sqlite:///{tmp_path}/x.sqlite")
    assert (tmp_path / "x.sqlite").read_text().startswith("a letter")


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(DatabaseUnusable, match=r"queue\.url"):
        Database("oracel://x")


# --- any order of events


class AnyOrder(RuleBasedStateMachine):
    """In any order of transitions, no job is lost and none is done by two attempts."""

    url: str
    spec: Spec

    def __init__(self) -> None:
        super().__init__()
        self.database = Database(self.url)
        with self.database.write() as db:
            for table in reversed(metadata.sorted_tables):
                if table is not meta:
                    db.execute(table.delete())
        self.store = JobStore(self.database)
        self.operator = Operator(self.database)
        self.recovery = Recovery(self.database)
        self.queries = JobQueries(self.database)
        self.enqueued = 0
        self.published: dict[int, int] = {}
        self.held: list[Job] = []

    attempts = Bundle("attempts")

    @rule(name=st.integers(0, 3), fingerprint=st.integers(0, 2), content=st.integers(0, 1))
    def drop(self, name: int, fingerprint: int, content: int) -> None:
        drop = Drop(inbox="i", path=f"{name}.jpg", fingerprint=str(fingerprint),
                    sha256=str(content), source={})  # fmt: skip
        self.enqueued += len(
            self.store.enqueue(drop, [self.spec], clip_name="x", rule="r", rules_digest="d")
        )

    @rule(target=attempts, lease=st.sampled_from([-1.0, 60.0]), owner=st.sampled_from("ab"))
    def claim(self, lease: float, owner: str) -> Job | None:
        return self.store.claim(owner, lease)

    @rule(owner=st.sampled_from("ab"))
    def recover_departed(self, owner: str) -> None:
        self.recovery.recover_departed(owner)

    @rule(attempt=attempts)
    def publish(self, attempt: Job | None) -> None:
        if attempt and self.store.begin_publication(attempt, {}):
            assert attempt.id not in self.published
            self.published[attempt.id] = attempt.attempt
            assert self.store.done(attempt, {})

    @rule(attempt=attempts, how=st.sampled_from(["fail", "retry_later", "release", "cancelled"]))
    def end(self, attempt: Job | None, how: str) -> None:
        if attempt:
            args = ("reason", 0.0) if how == "retry_later" else ("reason",)
            won = getattr(self.store, how)(attempt, *args)
            assert not (won and attempt.id in self.published)

    @rule(attempt=attempts)
    def cancel(self, attempt: Job | None) -> None:
        if attempt:
            self.operator.cancel(attempt.id)

    @rule(attempt=attempts)
    def retry(self, attempt: Job | None) -> None:
        if attempt:
            self.operator.retry(attempt.id, lambda _: "1")

    @precondition(lambda self: self.enqueued)
    @rule(owner=st.sampled_from("ab"))
    def crash(self, owner: str) -> None:
        self.recovery.recover(owner)

    @invariant()
    def no_job_is_lost(self) -> None:
        counts = self.queries.counts()
        assert sum(counts.values()) == self.enqueued
        assert counts["done"] == len(self.published)

    def teardown(self) -> None:
        self.database.close()


def test_any_order_of_events_loses_nothing(url: str, spec: Spec) -> None:
    AnyOrder.url, AnyOrder.spec = url, spec
    run_state_machine_as_test(
        AnyOrder,
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_queue_is_free_while_an_inbox_is_asked_for_a_picture(
    database: Database, store: JobStore, spec: Spec, enqueue: Callable[..., list[int]],
    make_drop: Callable[..., Drop],
) -> None:  # fmt: skip
    """A share that hangs then would stop all writers of an SQLite queue."""
    enqueue()
    job = claim(store)
    store.fail(job, "broke")
    store.moved(job, "failed", job.path)
    asked = 0

    def is_there() -> bool:
        nonlocal asked
        asked += 1
        database.try_write()
        return asked > 1

    again = {"clip_name": "cat", "rule": None, "rules_digest": "d", "is_there": is_there}
    assert store.enqueue(make_drop(), [spec], **again) == [], "it has left"
    assert store.enqueue(make_drop(), [spec], **again) == [2], "it was dropped again"
    assert store.reject(make_drop(), "broken", is_there) is None, "it has a job"
    assert asked == 2
