"""Speeds: which steps are made, and how, as each asks."""

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.request.presets import I2VGEN_XL, MICRO_FAMILY, Speed
from pipeline.request.sampling_plan import (
    SAVINGS,
    SHALLOW_LEVELS,
    Saving,
    sampling_plan,
    sampling_plan_with,
)
from pipeline.request.spec import Request, Spec, check
from tests.pipeline.request.test_spec import given_for

SPEEDS = get_args(Speed)


def spec(**asked: Any) -> Spec:
    return given_for(Request(**asked))


def test_exactly_is_what_was_asked_and_the_default() -> None:
    way = sampling_plan(spec(sampler="unipc", spacing="leading", steps=40))
    assert (way.sampler, way.spacing, way.steps) == ("unipc", "leading", 40)
    assert all(turn.guided and turn.fresh for turn in way.sampling_steps)
    assert way.work == 80
    for family in (I2VGEN_XL, MICRO_FAMILY):
        assert all(preset.speed == "exact" for preset in family.presets.values())


def test_what_a_clip_of_the_standard_preset_has_at_each_speed() -> None:
    made = {speed: sampling_plan(spec(speed=speed)) for speed in SPEEDS}
    assert [way.steps for way in made.values()] == [50, 25, 25]
    assert [sum(turn.guided for turn in way.sampling_steps) for way in made.values()] == [
        50,
        15,
        15,
    ]
    assert [sum(turn.fresh for turn in way.sampling_steps) for way in made.values()] == [50, 25, 9]
    for speed in ("balanced", "fast"):
        assert (made[speed].sampler, made[speed].spacing) == ("dpm++2m", "trailing")
    assert made["balanced"].work == 15 * 2 + 10
    assert made["fast"].work == pytest.approx(
        5 * 2 + 10 * 2 * SHALLOW_LEVELS + 4 + 6 * SHALLOW_LEVELS
    )
    assert made["fast"].work < made["exact"].work / 4


def test_each_saving_alone() -> None:
    told = {"steps": 30, "guided": True}
    assert sampling_plan_with(["steps"], **told).steps == 15
    led = sampling_plan_with(["guidance_interval"], **told)
    assert [turn.guided for turn in led.sampling_steps] == [True] * 18 + [False] * 12
    assert not led.reuses_features
    deep = sampling_plan_with(["feature_cache"], **told)
    assert deep.reuses_features
    assert [turn.fresh for turn in deep.sampling_steps] == [True, False, False] * 10
    assert {way.sampler for way in (led, deep)} == {"ddim"}


def test_few_steps_stay_few() -> None:
    assert sampling_plan_with(["steps"], steps=10, guided=False).steps == 10
    assert sampling_plan_with(["steps"], steps=15, guided=False).steps == 10
    assert sampling_plan_with(["steps"], steps=4, guided=False).steps == 4


def test_a_solver_of_second_order_that_was_asked_stays() -> None:
    assert sampling_plan(spec(speed="fast", sampler="unipc")).sampler == "unipc"


@given(st.sets(st.sampled_from(get_args(Saving))), st.integers(1, 100), st.booleans())
def test_every_course_begins_whole_and_none_takes_more(
    savings: set[Saving], steps: int, guided: bool
) -> None:
    exact, way = (sampling_plan_with(s, steps=steps, guided=guided) for s in ((), savings))
    assert way.work <= exact.work
    assert way.sampling_steps[0].fresh
    assert way.sampling_steps[0].guided is guided
    for before, turn in zip(way.sampling_steps, way.sampling_steps[1:], strict=False):
        assert turn.fresh or turn.guided == before.guided, "features of these conditions are there"


def test_a_faster_speed_has_all_that_a_slower_one_saves() -> None:
    found = [set(SAVINGS[speed]) for speed in SPEEDS]
    assert not found[0]
    assert found[0] < found[1] < found[2] == set(get_args(Saving))


def test_a_speed_that_is_none_is_told() -> None:
    (problem,) = check({"speed": "quick"}, I2VGEN_XL)
    assert problem.message == '"quick"; allowed: "exact", "balanced" or "fast"'
