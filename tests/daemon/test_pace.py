"""How long clips take here: learned from those that were made."""

from collections.abc import Callable

import pytest

from daemon.history import History, Wanted
from daemon.job import Drop
from daemon.ledger import Ledger
from daemon.pace import Pace, queued_work, work
from pipeline.spec import Spec


def spec(preset: str = "standard", steps: int = 10, guidance: float = 1.0) -> Spec:
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
        seed=1,
    )


def test_nothing_is_predicted_before_there_was_a_clip() -> None:
    assert Pace().seconds(spec()) is None
    assert Pace().until_done({"standard": 1.0}, [], 1) is None
    assert Pace().until_done({}, [], 1) == 0.0


def test_twice_the_steps_take_twice_the_time_and_guidance_doubles_it() -> None:
    pace = Pace()
    pace.learn(spec(steps=10), 30.0)
    assert pace.seconds(spec(steps=20)) == pytest.approx(60.0)
    assert pace.seconds(spec(steps=10, guidance=9.0)) == pytest.approx(60.0)
    assert pace.seconds(spec("draft")) is None


def test_one_slow_clip_changes_little() -> None:
    pace = Pace()
    for seconds in (30.0, 31.0, 500.0, 29.0, 30.0):
        pace.learn(spec(), seconds)
    assert pace.seconds(spec()) == pytest.approx(30.0)


def test_the_queue_is_shared_by_the_devices() -> None:
    pace = Pace()
    pace.learn(spec(), 30.0)
    queued = {"standard": 4 * work(spec()), "never made": work(spec())}
    running = [(spec(), 10.0), (spec(), 999.0)]  # one is late: it counts as nearly done
    assert pace.until_done(queued, running, slots=2) == pytest.approx((5 * 30 + 20) / 2)


def test_the_work_that_waits_is_counted_as_each_speed_has_it(
    ledger: Ledger,
    history: History,
    enqueue: Callable[..., list[int]],
    make_drop: Callable[..., Drop],
) -> None:
    enqueue("a.jpg")
    enqueue("b.jpg")
    fast = spec("high", steps=50, guidance=9.0).model_copy(update={"speed": "fast"})
    drop = make_drop("c.jpg", "1", "cc")
    ledger.admit(drop, [fast], clip_name="c", rule="r", rules_digest="d", priority=0)
    plain = history.newest(Wanted(path="a.jpg"))[0].spec
    assert plain
    assert queued_work(history) == {plain.preset: 2 * work(plain), "high": work(fast)}
    assert work(fast) < work(spec("high", steps=50, guidance=9.0)) / 4
