"""The ladder: only down, never the same twice, and to the floor."""

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipeline.ladder import Rung
from pipeline.mode import Mode, first_that_fits, rungs
from pipeline.memory import predicted_peak
from pipeline.presets import I2VGEN_XL, MICRO_FAMILY
from pipeline.spec import Request, Spec, resolve

specs = st.builds(
    lambda preset, aspect, frames, fallback: resolve(
        Request(preset=preset, aspect=aspect, frames=frames, fallback=fallback),
        I2VGEN_XL,
        source=(4000, 3000),
        sha256="0" * 64,
        rng=random.Random(1),
    ),
    st.sampled_from(sorted(I2VGEN_XL.presets)),
    st.sampled_from(["square", "source", "16:9", "9:16", "1:4"]),
    st.none() | st.integers(8, 32),
    st.sampled_from(["auto", "keep-size", "never"]),
)


@given(specs)
def test_it_starts_as_asked_and_only_goes_down(spec: Spec):
    ladder = rungs(spec, I2VGEN_XL)
    assert ladder[0] == Rung(Mode.FAST, spec.width, spec.height, spec.frames)
    assert len(set(ladder)) == len(ladder)
    modes = list(Mode)
    for upper, lower in pairwise(ladder):
        assert lower.width <= upper.width
        assert lower.height <= upper.height
        assert lower.frames <= upper.frames
        assert modes.index(lower.mode) >= modes.index(upper.mode)


@given(specs)
def test_pixels_are_kept_first_and_as_the_rule_says(spec: Spec):
    ladder = rungs(spec, I2VGEN_XL)
    assert [rung.mode for rung in ladder[:4]] == list(Mode)
    assert not any(rung.degrades(spec) for rung in ladder[:4])
    assert all(rung.degrades(spec) for rung in ladder[4:])
    if spec.fallback == "never":
        assert len(ladder) == 4
    if spec.fallback == "keep-size":
        assert {(r.width, r.height) for r in ladder} == {(spec.width, spec.height)}
    if spec.fallback == "auto":
        assert ladder[-1].frames == 8
        assert ladder[-1].width * ladder[-1].height <= 256 * 256 * 1.4


@given(specs)
def test_every_rung_is_a_size_that_the_model_can_make(spec: Spec):
    for rung in rungs(spec, I2VGEN_XL):
        assert rung.width % 64 == rung.height % 64 == 0
        assert min(rung.width, rung.height) >= 64
        assert 8 <= rung.frames <= 32


def test_the_ladder_of_the_standard_preset():
    spec = resolve(Request(), I2VGEN_XL, source=(640, 480), sha256="0" * 64, rng=random.Random(1))
    assert [str(rung) for rung in rungs(spec, I2VGEN_XL)] == [
        "512x512, 16 frames, resident",
        "512x512, 16 frames, lean",
        "512x512, 16 frames, sliced",
        "512x512, 16 frames, offload",
        "384x384, 16 frames, offload",
        "256x256, 16 frames, offload",
        "256x256, 8 frames, offload",
    ]


@given(specs, st.none() | st.integers(0, 40 * 10**9))
def test_the_first_rung_that_fits(spec: Spec, budget: int | None):
    ladder = rungs(spec, I2VGEN_XL)

    def peak(rung: Rung) -> int:
        return predicted_peak(rung, I2VGEN_XL, "float16")

    index = first_that_fits(ladder, budget, peak)
    if budget is None:
        assert index == 0
    else:
        assert all(peak(rung) > budget for rung in ladder[:index])
        assert peak(ladder[index]) <= budget or index == len(ladder) - 1


def test_the_predicted_peak_never_grows_on_the_way_down():
    for family in (I2VGEN_XL, MICRO_FAMILY):
        for preset in family.presets:
            spec = resolve(
                Request(preset=preset),
                family,
                source=(64, 64),
                sha256="0" * 64,
                rng=random.Random(1),
            )
            peaks = [predicted_peak(rung, family, "float16") for rung in rungs(spec, family)]
            assert peaks == sorted(peaks, reverse=True)
