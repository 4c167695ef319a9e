"""Recovery: orphaned jobs are requeued uncounted, orphaned publications are adopted."""

from collections.abc import Callable

import pytest

from daemon.jobs.database import Database
from daemon.jobs.operator import Operator
from daemon.jobs.queries import JobQueries
from daemon.jobs.recovery import MAX_INTERRUPTIONS, Recovery
from daemon.jobs.store import JobStore
from tests.daemon.conftest import claim

Enqueue = Callable[..., list[int]]


@pytest.fixture
def recovery(database: Database) -> Recovery:
    return Recovery(database)


def test_an_owner_keeps_its_own_jobs_however_the_clock_jumps(
    store: JobStore, recovery: Recovery, enqueue: Enqueue
) -> None:
    """One daemon with two devices: the wall clock jumps a day while both are running."""
    enqueue("a.jpg")
    enqueue("b.jpg", sha256="bb")
    mine = claim(store, "me", lease=-86_400)
    assert claim(store, "me").id == 2
    assert recovery.recover_departed("me") == []
    assert store.renew(mine, 30, None) == "ok"
    assert recovery.recover_departed("another") == []


def test_jobs_that_still_run_are_not_recovered(
    store: JobStore, recovery: Recovery, enqueue: Enqueue
) -> None:
    enqueue("a.jpg")
    enqueue("b.jpg", sha256="bb")
    first, second = claim(store), claim(store)
    assert recovery.recover("me", [first.id]) == [second.id]


def test_a_job_that_ends_the_daemon_each_time_is_given_up(
    store: JobStore, operator: Operator, recovery: Recovery, queries: JobQueries, enqueue: Enqueue
) -> None:
    enqueue("bad.jpg")
    enqueue("good.jpg", sha256="bb")
    for _ in range(MAX_INTERRUPTIONS):
        assert claim(store).id == 1
        assert recovery.recover("me") == [1]
    bad = queries.job(1)
    assert bad is not None
    assert (bad.state, bad.failures) == ("failed", 0)
    assert "the daemon ended 3 times" in (bad.error or "")
    assert claim(store).id == 2
    assert operator.retry(1, lambda job: job.fingerprint)
    recovery.recover("me")
    assert claim(store).id == 1
    recovery.recover("me")
    again = queries.job(1)
    assert again is not None
    assert again.state == "queued", "a retry restores all tries"


def test_an_attempt_with_an_expired_lease_is_fenced(
    store: JobStore, recovery: Recovery, enqueue: Enqueue
) -> None:
    enqueue()
    late = claim(store, "one", lease=-1)
    assert recovery.recover_departed("two") == [late.id]
    now = claim(store, "two")
    assert now.id == late.id
    assert now.attempt == late.attempt + 1
    assert store.renew(late, 30, None) == "lost"
    assert not store.begin_publication(late, {})
    assert not store.fail(late, "late")
    assert not store.release(late, "late")
    assert not store.retry_later(late, "late", 0)
    assert store.begin_publication(now, {})


def test_running_jobs_are_requeued_uncounted_after_a_crash(
    store: JobStore, recovery: Recovery, enqueue: Enqueue
) -> None:
    enqueue("a.jpg")
    enqueue("b.jpg")
    mine, other = claim(store, "me"), claim(store, "other")
    assert recovery.recover("me") == [mine.id]
    again = claim(store, "me")
    assert (again.id, again.failures) == (mine.id, 0)
    assert store.renew(other, 30, None) == "ok"


def test_a_job_that_ends_each_host_fails(
    store: JobStore, recovery: Recovery, queries: JobQueries, enqueue: Enqueue
) -> None:
    enqueue()
    for number in range(MAX_INTERRUPTIONS):
        claim(store, f"host{number}", lease=-1)
        assert recovery.recover_departed("another") == [1]
    assert queries.counts()["failed"] == 1


def test_a_publication_is_adopted_by_another_host_that_sees_the_inbox(
    store: JobStore, recovery: Recovery, queries: JobQueries, enqueue: Enqueue
) -> None:
    enqueue()
    job = claim(store, "one")
    assert store.begin_publication(job, {"x": 1}, lease=30)
    assert recovery.adopt_publications("two", 30, ["inbox"]) == []
    store.done(job, {})
    enqueue("b.jpg", sha256="bb")
    job = claim(store, "one")
    assert store.begin_publication(job, {"x": 1}, lease=-1)
    assert recovery.adopt_publications("two", 30, ["other"]) == []
    assert recovery.adopt_publications("one", 30, ["inbox"]) == []
    assert recovery.adopt_publications("two", 30, ["inbox"]) == [job.id]
    assert [found.id for found in queries.unpublished("two")] == [job.id]
    assert queries.unpublished("one") == []
    assert queries.active_attempts() == {(job.id, job.attempt)}


def test_a_cancelled_running_job_is_not_run_again_after_a_crash(
    store: JobStore, operator: Operator, recovery: Recovery, queries: JobQueries, enqueue: Enqueue
) -> None:
    enqueue()
    operator.cancel(claim(store).id)
    recovery.recover("me")
    assert store.claim("me", 30) is None
    assert queries.counts()["cancelled"] == 1
