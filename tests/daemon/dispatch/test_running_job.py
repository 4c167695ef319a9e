"""Running jobs of a slot, and the moment at which it wants the next one."""

from collections.abc import Callable
from uuid import uuid4

import pytest

from daemon.dispatch.running_job import RunningJob
from daemon.dispatch.slot import Slot
from daemon.jobs.job import Job
from daemon.jobs.store import JobStore
from pipeline.children.exit_reasons import ChildFailure
from pipeline.children.generation import GenerationFailure
from pipeline.children.generator import ClipGenerator
from pipeline.children.protocol import Load, Progress, Stage
from pipeline.request.spec import Spec

NewJob = Callable[..., Job]


@pytest.fixture
def new_job(store: JobStore, enqueue: Callable[..., list[int]]) -> NewJob:
    def new(failures: int = 0) -> Job:
        enqueue(f"{uuid4()}.jpg")
        job = store.claim("me", 30.0)
        assert job is not None
        return job.model_copy(update={"failures": failures})

    return new


def slot() -> Slot:
    load = Load(model="micro", device="cpu", dtype="float32")
    return Slot("cpu", ClipGenerator(load, print, print))


def at(stage: Stage, step: int = 1, steps: int = 9) -> Progress:
    return Progress(stage=stage, step=step, steps=steps)


def test_steps_that_begin_again_are_counted_and_never_negative(new_job: NewJob) -> None:
    running_job = RunningJob(new_job())
    assert [running_job.update(at("denoise", step)) for step in (1, 4, 0, 2)] == [1, 3, 0, 2]


def test_eta_counts_the_work_of_the_remaining_steps(
    new_job: NewJob, spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a speed some steps take half as long as others; after a quality rejection none does."""
    asked = {"steps": 50, "guidance": 9.0, "speed": "balanced"}
    job = new_job().model_copy(update={"spec": spec.model_copy(update=asked)})
    for steps, left in ((25, 10.0), (50, 40.0)):
        running_job, clock = RunningJob(job), iter((100.0, 110.0))
        monkeypatch.setattr(
            "daemon.dispatch.running_job.time.monotonic", lambda clock=clock: next(clock)
        )
        running_job.update(at("denoise", 0, steps))
        running_job.update(at("denoise", 10, steps))
        assert running_job.eta() == left  # of 25 steps 15 have guidance, and take twice as long


def test_the_next_job_is_wanted_when_the_device_is_nearly_free(new_job: NewJob) -> None:
    one = slot()
    assert one.wants_next()
    running_job = one.start(new_job())
    assert not one.wants_next(), "it has not begun"
    one.update(running_job, at("condition"))
    assert not one.wants_next()
    one.update(running_job, at("denoise", 0))
    assert not one.wants_next(), "the remaining time is not known yet"
    one.update(running_job, at("decode"))
    assert one.wants_next()
    behind = one.start(new_job())
    assert not one.wants_next(), "one waits behind it already"
    one.update(running_job, at("encode_video"))
    one.update(behind, at("denoise", 1))  # a step took no time at all
    assert one.wants_next()
    assert one.current is behind
    one.finish(behind)
    assert one.current is running_job
    one.finish(running_job)
    assert one.current is None


def test_a_job_that_failed_before_shares_the_worker_with_no_other(new_job: NewJob) -> None:
    one = slot()
    running_job = one.start(new_job(failures=1))
    one.update(running_job, at("decode"))
    assert not one.wants_next()
    one.finish(running_job)
    assert one.wants_next()


def test_after_a_loss_one_job_at_a_time_is_tried(new_job: NewJob) -> None:
    one = slot()
    one.record_outcome(
        GenerationFailure(
            "lost", "it died", retry=True, child_failure=ChildFailure("crash", "it died")
        )
    )
    assert one.wants_next()
    running_job = one.start(new_job())
    one.update(running_job, at("decode"))
    assert not one.wants_next()


def test_a_worker_lost_with_two_clips_is_one_loss() -> None:
    one = slot()
    loss = ChildFailure("crash", "it died")
    for _ in range(2):
        one.record_outcome(GenerationFailure("lost", loss.reason, retry=True, child_failure=loss))
    assert one.consecutive_failures == 1
    one.record_outcome(
        GenerationFailure(
            "lost", loss.reason, retry=True, child_failure=ChildFailure("crash", "it died")
        )
    )
    assert one.consecutive_failures == 2
