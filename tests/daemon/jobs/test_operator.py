"""Jobs that wait for a reason of their own, and what an operator does to them."""

from collections.abc import Callable

import sqlalchemy as sa

from daemon.jobs.database import Database
from daemon.jobs.job import Job
from daemon.jobs.operator import Operator
from daemon.jobs.queries import JobFilter, JobQueries
from daemon.jobs.recovery import Recovery
from daemon.jobs.schema import jobs
from daemon.jobs.store import CANCELLED, JobStore
from tests.daemon.conftest import claim

Enqueue = Callable[..., list[int]]

REASON = "Operation not permitted: /outbox/album"


def job(queries: JobQueries, number: int = 1) -> Job:
    found = queries.job(number)
    assert found is not None
    return found


def test_a_postponed_job_waits_with_its_reason_and_uses_no_try(
    store: JobStore, operator: Operator, queries: JobQueries, enqueue: Enqueue
) -> None:
    enqueue("a.jpg")
    enqueue("b.jpg")
    assert store.postpone(claim(store), REASON, 60)
    waiting = job(queries)
    assert (waiting.state, waiting.error, waiting.failures, waiting.waits) == (
        "queued", REASON, 0, 1,
    )  # fmt: skip
    assert claim(store).id == 2, "the others go on"
    assert store.claim("me", 30) is None
    assert [each.id for each in queries.newest(JobFilter(waiting=True))] == [1]
    assert queries.due_waiting(["inbox"]) == []
    assert operator.hasten(1)
    assert [each.id for each in queries.due_waiting(["inbox"])] == [1]
    assert queries.due_waiting(["other"]) == []
    again = claim(store)
    assert (again.id, again.error) == (1, REASON), "shown until it is over"
    assert not operator.hasten(1), "it runs"


def test_a_job_that_still_cannot_start_waits_longer_without_a_claim(
    store: JobStore, queries: JobQueries, enqueue: Enqueue
) -> None:
    enqueue()
    store.postpone(claim(store), REASON, 0)
    waiting, events = job(queries), len(queries.events(1))
    assert store.wait_longer(waiting, REASON, 60)
    longer = job(queries)
    assert (longer.attempt, longer.waits) == (1, 2)
    assert len(queries.events(1)) == events
    assert store.claim("me", 30) is None
    store.wait_longer(longer, REASON, 0)
    claim(store)
    assert not store.wait_longer(longer, REASON, 0), "another host has claimed it"


def test_a_job_that_waits_after_a_failure_is_hastened_too(
    store: JobStore, operator: Operator, enqueue: Enqueue
) -> None:
    enqueue()
    assert not operator.hasten(1), "nothing to hasten"
    store.retry_later(claim(store), "the worker was lost", 60)
    assert store.claim("me", 30) is None
    assert operator.hasten(1)
    assert claim(store).failures == 1


def test_a_blocked_publication_is_due_after_its_delay(
    store: JobStore, operator: Operator, queries: JobQueries, enqueue: Enqueue
) -> None:
    enqueue()
    running = claim(store)
    store.begin_publication(running, {}, lease=0.0)
    assert [each.id for each in queries.due_publications("me")] == [1]
    assert store.block_publication(running, REASON, 60)
    assert queries.due_publications("me") == []
    assert [each.id for each in queries.unpublished("me")] == [1], "its staging is needed"
    assert store.block_publication(job(queries), REASON, 60)
    told = [each.event for each in queries.events(1)]
    assert told.count("publication_blocked") == 1, "one reason is told once"
    assert store.block_publication(job(queries), "another", 60)
    assert operator.hasten(1)
    assert [each.id for each in queries.due_publications("me")] == [1]
    assert store.done(running, {"clip": "cat.mp4"})
    done = job(queries)
    assert (done.state, done.error, done.waits) == ("done", None, 0)
    assert queries.newest(JobFilter(waiting=True)) == []


def test_a_blocked_publication_is_adopted_only_when_it_is_due(
    store: JobStore, operator: Operator, database: Database, enqueue: Enqueue
) -> None:
    enqueue()
    running, recovery = claim(store), Recovery(database)
    store.begin_publication(running, {}, lease=-1.0)
    store.block_publication(running, REASON, 60)
    assert recovery.adopt_publications("other", 30, ["inbox"]) == []
    operator.hasten(1)
    assert recovery.adopt_publications("other", 30, ["inbox"]) == [1]


def test_a_cancelled_publication_is_left_to_its_host(
    store: JobStore, operator: Operator, queries: JobQueries, enqueue: Enqueue
) -> None:
    enqueue()
    running = claim(store)
    store.begin_publication(running, {})
    store.block_publication(running, REASON, 60)
    assert operator.cancel(1)
    assert not operator.hasten(1)
    (due,) = queries.due_publications("me")
    assert (due.state, due.cancel) == ("publishing", True)
    assert store.withdrawn(due)
    cancelled = job(queries)
    assert (cancelled.state, cancelled.error) == ("cancelled", CANCELLED)
    assert not store.done(due, {"clip": "cat.mp4"}), "the fence holds"
    assert not operator.cancel(1)
    assert operator.retry(1, lambda _: "1")
    again = claim(store)
    assert (again.cancel, again.result) == (False, None)


def test_a_publication_that_ends_before_it_is_withdrawn_is_done(
    store: JobStore, operator: Operator, queries: JobQueries, enqueue: Enqueue
) -> None:
    enqueue()
    running = claim(store)
    store.begin_publication(running, {})
    operator.cancel(1)
    assert store.done(running, {"clip": "cat.mp4"})
    assert not store.withdrawn(running)
    assert job(queries).state == "done"


def test_a_lost_clip_is_queued_again_uncounted_and_cancelled_if_asked(
    store: JobStore, operator: Operator, queries: JobQueries, enqueue: Enqueue
) -> None:
    enqueue("a.jpg")
    enqueue("b.jpg")
    for cancel, state in ((False, "queued"), (True, "cancelled")):
        running = claim(store)
        store.begin_publication(running, {})
        if cancel:
            operator.cancel(running.id)
        assert store.requeue_publication(job(queries, running.id), "its staging is gone", 0)
        found = job(queries, running.id)
        assert (found.state, found.failures, found.result is None) == (state, 0, not cancel)
        if not cancel:
            store.fail(claim(store), "enough")


def test_why_a_picture_is_still_in_the_inbox_is_kept_until_it_has_left(
    store: JobStore, queries: JobQueries, database: Database, enqueue: Enqueue
) -> None:
    enqueue(variants=2)
    for _ in range(2):
        store.fail(claim(store), "broke")
    store.block_archival(job(queries), REASON)
    assert [each.archival_error for each in queries.newest()] == [REASON, REASON]
    assert len(queries.newest(JobFilter(waiting=True))) == 2
    store.moved(job(queries), "inbox", "cat.jpg")
    assert job(queries).archival_error == REASON, "only announced"
    store.moved(job(queries), "failed", "cat.jpg")
    assert queries.newest(JobFilter(waiting=True)) == []
    with database.read() as db:
        assert db.scalars(sa.select(jobs.c.error)).all() == ["broke", "broke"]
