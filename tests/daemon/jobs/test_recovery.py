"""Recovery: orphaned jobs are requeued uncounted, orphaned publications are adopted."""

from collections.abc import Callable

import pytest

from daemon.jobs.database import Database
from daemon.jobs.queries import JobQueries
from daemon.jobs.recovery import MAX_INTERRUPTIONS, Recovery
from daemon.jobs.store import JobStore
from tests.daemon.conftest import claim

Enqueue = Callable[..., list[int]]


@pytest.fixture
def recovery(database: Database) -> Recovery:
    return Recovery(database)


def test_an_owner_keeps_its_own_jobs_however_the_clock_jumps(
    ledger: JobStore, recovery: Recovery, enqueue: Enqueue
) -> None:
    """One daemon with two devices: the wall clock jumps a day while both are running."""
    enqueue("a.jpg")
    enqueue("b.jpg", sha256="bb")
    mine = claim(ledger, "me", lease=-86_400)
    assert claim(ledger, "me").id == 2
    assert recovery.recover_departed("me") == []
    assert ledger.renew(mine, 30, None) == "ok"
    assert recovery.recover_departed("another") == []


def test_jobs_that_still_run_are_not_recovered(
    ledger: JobStore, recovery: Recovery, enqueue: Enqueue
) -> None:
    enqueue("a.jpg")
    enqueue("b.jpg", sha256="bb")
    first, second = claim(ledger), claim(ledger)
    assert recovery.recover("me", [first.id]) == [second.id]


def test_a_job_that_ends_the_daemon_each_time_is_given_up(
    ledger: JobStore, recovery: Recovery, history: JobQueries, enqueue: Enqueue
) -> None:
    enqueue("bad.jpg")
    enqueue("good.jpg", sha256="bb")
    for _ in range(MAX_INTERRUPTIONS):
        assert claim(ledger).id == 1
        assert recovery.recover("me") == [1]
    bad = history.job(1)
    assert bad is not None
    assert (bad.state, bad.failures) == ("failed", 0)
    assert "the daemon ended 10 times" in (bad.error or "")
    assert claim(ledger).id == 2
    assert ledger.retry(1, lambda job: job.fingerprint)
    recovery.recover("me")
    assert claim(ledger).id == 1
    recovery.recover("me")
    again = history.job(1)
    assert again is not None
    assert again.state == "queued", "a retry restores all tries"


def test_an_attempt_with_an_expired_lease_is_fenced(
    ledger: JobStore, recovery: Recovery, enqueue: Enqueue
) -> None:
    enqueue()
    late = claim(ledger, "one", lease=-1)
    assert recovery.recover_departed("two") == [late.id]
    now = claim(ledger, "two")
    assert now.id == late.id
    assert now.attempt == late.attempt + 1
    assert ledger.renew(late, 30, None) == "lost"
    assert not ledger.begin_publication(late, {})
    assert not ledger.fail(late, "late")
    assert not ledger.release(late, "late")
    assert not ledger.retry_later(late, "late", 0)
    assert ledger.begin_publication(now, {})


def test_running_jobs_are_requeued_uncounted_after_a_crash(
    ledger: JobStore, recovery: Recovery, enqueue: Enqueue
) -> None:
    enqueue("a.jpg")
    enqueue("b.jpg")
    mine, other = claim(ledger, "me"), claim(ledger, "other")
    assert recovery.recover("me") == [mine.id]
    again = claim(ledger, "me")
    assert (again.id, again.failures) == (mine.id, 0)
    assert ledger.renew(other, 30, None) == "ok"


def test_a_job_that_ends_each_host_fails(
    ledger: JobStore, recovery: Recovery, history: JobQueries, enqueue: Enqueue
) -> None:
    enqueue()
    for number in range(MAX_INTERRUPTIONS):
        claim(ledger, f"host{number}", lease=-1)
        assert recovery.recover_departed("another") == [1]
    assert history.counts()["failed"] == 1


def test_a_publication_is_adopted_by_another_host_that_sees_the_inbox(
    ledger: JobStore, recovery: Recovery, history: JobQueries, enqueue: Enqueue
) -> None:
    enqueue()
    job = claim(ledger, "one")
    assert ledger.begin_publication(job, {"x": 1}, lease=30)
    assert recovery.adopt_publications("two", 30, ["inbox"]) == []
    ledger.done(job, {})
    enqueue("b.jpg", sha256="bb")
    job = claim(ledger, "one")
    assert ledger.begin_publication(job, {"x": 1}, lease=-1)
    assert recovery.adopt_publications("two", 30, ["other"]) == []
    assert recovery.adopt_publications("one", 30, ["inbox"]) == []
    assert recovery.adopt_publications("two", 30, ["inbox"]) == [job.id]
    assert [found.id for found in history.unpublished("two")] == [job.id]
    assert history.unpublished("one") == []
    assert history.active_attempts() == {(job.id, job.attempt)}


def test_a_cancelled_running_job_is_not_run_again_after_a_crash(
    ledger: JobStore, recovery: Recovery, history: JobQueries, enqueue: Enqueue
) -> None:
    enqueue()
    ledger.cancel(claim(ledger).id)
    recovery.recover("me")
    assert ledger.claim("me", 30) is None
    assert history.counts()["cancelled"] == 1
