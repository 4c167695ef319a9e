"""State changes: those of each job lead from its first state to its current one."""

from collections.abc import Callable

from daemon.jobs.database import Database
from daemon.jobs.job import Drop, Job
from daemon.jobs.operator import Operator
from daemon.jobs.queries import JobQueries
from daemon.jobs.recovery import Recovery
from daemon.jobs.store import JobStore
from daemon.jobs.transitions import Changes

HOST = "host"


def test_every_change_begins_at_the_state_before_it(
    database: Database,
    store: JobStore,
    queries: JobQueries,
    enqueue: Callable[..., list[int]],
    make_drop: Callable[..., Drop],
) -> None:
    def claimed() -> Job:
        job = store.claim(HOST, 30.0)
        assert job is not None
        return job

    enqueue("done.jpg")
    store.release(claimed(), "stopped")
    store.retry_later(claimed(), "unlucky", 0.0)
    claimed()
    Recovery(database).recover(HOST)
    job = claimed()
    store.begin_publication(job, {"clip": "x"})
    store.block_publication(job, "a link", 0.0)
    store.done(job, {"clip": "done.mp4"})
    (failed,) = enqueue("failed.jpg")
    store.fail(claimed(), "spoilt")
    Operator(database).retry(failed, lambda _: "2")
    Operator(database).prioritise(failed, 5)
    Operator(database).cancel(failed)
    (running,) = enqueue("stopped.jpg")
    job = claimed()
    Operator(database).cancel(running)
    store.cancelled(job, "by the operator")
    rejected = store.reject(make_drop("bad.jpg"), "no picture")
    enqueue("old.jpg", fingerprint="1", sha256="aa")
    enqueue("old.jpg", fingerprint="2", sha256="bb")

    changes = Changes(database)
    told = changes.after(0)
    for job in queries.newest():
        way = [each for each in told if each.job == job.id]
        assert way[0].from_state is None
        assert [each.from_state for each in way[1:]] == [each.to_state for each in way[:-1]]
        assert way[-1].to_state == job.state
        assert changes.after(0, job.id) == way
    assert [each.event for each in told if each.job == rejected] == ["rejected"]
    assert changes.after(told[3].number) == told[4:]
    assert told[-1].number <= changes.newest()
    assert changes.after(changes.newest()) == []
