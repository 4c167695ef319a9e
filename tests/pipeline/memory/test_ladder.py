"""The ladder: only down, never the same twice, each rung cheaper than the one before it."""

import random
import re
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.memory.dimensions import PUBLISHED, dimensions_of
from pipeline.memory.ladder import advice, first_fitting, rungs
from pipeline.memory.modes import Mode, Rung
from pipeline.memory.peak_memory import peak
from pipeline.request.presets import I2VGEN_XL, MICRO_FAMILY, Family
from pipeline.request.spec import Request, Spec, resolve

GB = 10**9


def resolved(family: Family, **asked: object) -> Spec:
    return resolve(
        Request.model_validate(asked),
        family,
        source=(4000, 3000),
        sha256="0" * 64,
        rng=random.Random(1),
    )


def needs(spec: Spec, family: Family = I2VGEN_XL) -> Callable[[Rung], int]:
    dimensions = PUBLISHED if family is I2VGEN_XL else dimensions_of("micro")
    dtype = "float16" if family is I2VGEN_XL else "float32"
    return lambda rung: peak(rung, dimensions, dtype, guided=spec.guided).most


def ladder(spec: Spec, family: Family = I2VGEN_XL, *, lossy: bool = False) -> tuple[Rung, ...]:
    return rungs(spec, family, needs(spec, family), lossy=lossy)


families = st.sampled_from([I2VGEN_XL, MICRO_FAMILY])


@st.composite
def specs(draw: st.DrawFn, family: Family = I2VGEN_XL) -> Spec:
    return resolved(
        family,
        preset=draw(st.sampled_from(sorted(family.presets))),
        aspect=draw(st.sampled_from(["square", "source", "16:9", "9:16", "1:4"])),
        frames=draw(st.none() | st.integers(8, 32)),
        guidance=draw(st.sampled_from([1.0, 9.0])),
        fallback=draw(st.sampled_from(["auto", "keep-size", "never"])),
    )


@given(st.data(), families, st.booleans())
def test_it_starts_as_asked_and_only_goes_down(
    data: st.DataObject, family: Family, lossy: bool
) -> None:
    spec = data.draw(specs(family))
    found = ladder(spec, family, lossy=lossy)
    assert found[0] == Rung(Mode.RESIDENT, spec.width, spec.height, spec.frames)
    assert len(set(found)) == len(found)
    modes = list(Mode)
    need = needs(spec, family)
    for upper, lower in pairwise(found):
        assert lower.width <= upper.width
        assert lower.height <= upper.height
        assert lower.frames <= upper.frames
        assert modes.index(lower.mode) >= modes.index(upper.mode)
        assert need(lower) < need(upper)
    assert lossy or all(rung.mode.exact for rung in found)


@given(specs())
def test_pixels_are_kept_first_and_as_the_rule_says(spec: Spec) -> None:
    found = ladder(spec)
    kept = [rung for rung in found if not rung.degrades(spec)]
    assert list(found[: len(kept)]) == kept
    if spec.fallback == "never":
        assert kept == list(found)
    if spec.fallback == "keep-size":
        assert {(r.width, r.height) for r in found} == {(spec.width, spec.height)}
    if spec.fallback == "auto":
        assert found[-1].width * found[-1].height <= 256 * 256 * 1.4


@given(specs())
def test_every_rung_is_a_size_that_the_model_can_make(spec: Spec) -> None:
    for rung in ladder(spec):
        assert rung.width % 64 == rung.height % 64 == 0
        assert min(rung.width, rung.height) >= 64
        assert 8 <= rung.frames <= 32


def test_the_ladder_of_the_standard_preset() -> None:
    spec = resolved(I2VGEN_XL)
    assert [str(rung) for rung in ladder(spec)] == [
        "512x512, 16 frames, resident",
        "512x512, 16 frames, chunked",
        "512x512, 16 frames, offload",
        "384x384, 16 frames, offload",
        "256x256, 16 frames, offload",
        "256x256, 8 frames, offload",
    ]
    assert [rung.mode for rung in ladder(spec, lossy=True)[:4]] == list(Mode)


@given(st.integers(1, 40 * GB) | st.none(), st.lists(st.integers(1, 40 * GB), min_size=1))
def test_the_first_rung_that_fits(free: int | None, sizes: list[int]) -> None:
    found = tuple(Rung(Mode.RESIDENT, 64, 64, 8 + n) for n in range(len(sizes)))
    index = first_fitting(found, free, lambda rung: sizes[rung.frames - 8])
    if free is None:
        assert index == 0
    else:
        assert all(size > free for size in sizes[:index])
        assert sizes[index] <= free or index == len(sizes) - 1


def test_no_preset_is_made_smaller_on_eight_gigabytes() -> None:
    for preset in I2VGEN_XL.presets:
        spec = resolved(I2VGEN_XL, preset=preset)
        found = ladder(spec)
        assert not found[first_fitting(found, 8 * GB, needs(spec))].degrades(spec)


@pytest.mark.parametrize(
    ("free", "says"),
    [
        (int(0.6 * GB), r"'preview' would fit \(0.4. GB\)"),
        (GB // 10, "no smaller preset fits in 0.10 GB"),
        (None, "choose a smaller preset"),
    ],
)
def test_what_would_help(free: int | None, says: str) -> None:
    spec = resolved(I2VGEN_XL, preset="high")
    told = advice(spec, I2VGEN_XL, free, needs(spec))
    assert re.search(says, told), told
    assert "max_vram" in told
