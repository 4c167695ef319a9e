"""Duration estimates, learned from the clips that were generated here."""

from collections.abc import Callable

import pytest

from daemon.estimate.duration import DurationEstimator, queued_work, rates, work
from daemon.jobs.job import Drop
from daemon.jobs.queries import JobFilter, JobQueries
from daemon.jobs.store import JobStore
from pipeline.request.presets import Speed
from pipeline.request.spec import Spec
from tests.daemon.conftest import claim


def spec(
    preset: str = "standard", steps: int = 10, guidance: float = 1.0, speed: Speed = "exact"
) -> Spec:
    return Spec(
        prompt="",
        preset=preset,
        width=64,
        height=64,
        frames=16,
        fps=8,
        motion_fps=16,
        steps=steps,
        guidance=guidance,
        speed=speed,
        seed=1,
    )


def test_nothing_is_predicted_before_there_was_a_clip() -> None:
    assert DurationEstimator().seconds(spec()) is None
    assert DurationEstimator().queue_eta({("standard", "exact"): 1.0}, [], 1) is None
    assert DurationEstimator().queue_eta({}, [], 1) == 0.0


def test_twice_the_steps_take_twice_the_time_and_guidance_doubles_it() -> None:
    estimator = DurationEstimator()
    estimator.record(spec(steps=10), "resident", 30.0)
    assert estimator.seconds(spec(steps=20)) == pytest.approx(60.0)
    assert estimator.seconds(spec(steps=10, guidance=9.0)) == pytest.approx(60.0)
    assert estimator.seconds(spec("draft")) is None


def test_one_slow_clip_changes_little() -> None:
    estimator = DurationEstimator()
    for seconds in (30.0, 31.0, 500.0, 29.0, 30.0):
        estimator.record(spec(), "resident", seconds)
    assert estimator.seconds(spec()) == pytest.approx(30.0)


def test_the_queue_eta_is_divided_by_the_devices() -> None:
    estimator = DurationEstimator()
    estimator.record(spec(), "resident", 30.0)
    queued = {("standard", "exact"): 4 * work(spec()), ("never made", "exact"): work(spec())}
    running = [(spec(), 10.0), (spec(), 999.0)]  # one is late: it counts as nearly done
    assert estimator.queue_eta(queued, running, slots=2) == pytest.approx((5 * 30 + 20) / 2)


def test_each_speed_has_its_own_rate_with_the_presets_as_fallback() -> None:
    """Fixed costs weigh more in a fast clip, so its seconds per unit of work are higher."""
    exact, fast = (spec(steps=50, guidance=9.0, speed=speed) for speed in ("exact", "fast"))
    estimator = DurationEstimator()
    estimator.record(exact, "resident", 110.0)
    assert estimator.seconds(fast) == pytest.approx(110 * work(fast) / work(exact))
    for _ in range(3):
        estimator.record(fast, "resident", 34.0)
    assert estimator.seconds(exact) == pytest.approx(110.0)
    assert estimator.seconds(fast) == pytest.approx(34.0)
    queued = {("standard", "exact"): 2 * work(exact), ("standard", "fast"): 3 * work(fast)}
    assert estimator.queue_eta(queued, [(fast, 4.0)], slots=1) == pytest.approx(
        2 * 110 + 3 * 34 + 30
    )


def test_each_mode_has_its_own_rate() -> None:
    estimator, balanced = DurationEstimator(), spec(speed="balanced")
    estimator.record(spec(), "resident", 30.0)
    estimator.record(spec(), "chunked", 50.0)
    assert estimator.seconds(spec(), "resident") == pytest.approx(30.0)
    assert estimator.seconds(balanced, "chunked") == pytest.approx(
        50 * work(balanced) / work(spec())
    )
    assert estimator.seconds(spec(), "offload") is None
    assert estimator.seconds(spec()) == pytest.approx(40.0)


def test_queued_work_counts_the_savings_of_each_speed(
    store: JobStore,
    queries: JobQueries,
    enqueue: Callable[..., list[int]],
    make_drop: Callable[..., Drop],
) -> None:
    enqueue("a.jpg")
    enqueue("b.jpg")
    fast = spec("high", steps=50, guidance=9.0, speed="fast")
    drop = make_drop("c.jpg", "1", "cc")
    store.enqueue(drop, [fast], clip_name="c", rule="r", rules_digest="d", priority=0)
    plain = queries.newest(JobFilter(path="a.jpg"))[0].spec
    assert plain
    assert queued_work(queries) == {
        (plain.preset, "exact"): 2 * work(plain),
        ("high", "fast"): work(fast),
    }
    assert work(fast) < work(spec("high", steps=50, guidance=9.0)) / 4


def test_a_clip_counts_for_the_speed_that_was_applied(
    store: JobStore, queries: JobQueries, make_drop: Callable[..., Drop]
) -> None:
    fast = spec(steps=50, guidance=9.0, speed="fast")
    exact = fast.model_copy(update={"speed": "exact"})
    for number, speed in enumerate(("fast", "exact")):
        drop = make_drop(f"{number}.jpg", "1", str(number))
        store.enqueue(drop, [fast], clip_name="c", rule="r", rules_digest="d", priority=0)
        job = claim(store)
        told = {"degraded": False, "mode": "resident", "seconds": {"denoise": 90.0}, "speed": speed}
        assert store.begin_publication(job, told, lease=30.0)
        store.done(job, told)
    found = [(made.speed, seconds) for made, _, seconds in rates(queries)]
    slow, quick = 90 / work(exact), 90 / work(fast)
    assert found == [("fast", quick), ("exact", slow)]
