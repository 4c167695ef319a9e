"""Framing: whole boxes, inside, centred, of the right shape."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.image.framing import crop_box, fit_box, kept_fraction

sizes = st.tuples(st.integers(1, 20_000), st.integers(1, 20_000))


@given(sizes, sizes)
def test_a_box_lies_inside_touches_two_edges_and_is_centred(source, target):
    for (left, upper, right, lower), (width, height) in (
        (crop_box(source, target), source),
        (fit_box(source, target), target),
    ):
        assert 0 <= left < right <= width
        assert 0 <= upper < lower <= height
        assert (right - left == width) or (lower - upper == height)
        assert 0 <= (width - right) - left <= 1
        assert 0 <= (height - lower) - upper <= 1


@given(sizes, sizes)
def test_a_crop_has_the_targets_shape_to_within_half_a_pixel(source, target):
    left, upper, right, lower = crop_box(source, target)
    width, height = right - left, lower - upper
    assert (
        abs(width - height * target[0] / target[1]) <= 0.5
        or abs(height - width * target[1] / target[0]) <= 0.5
        or min(width, height) == 1
    )


@given(sizes, st.integers(1, 30))
def test_a_source_of_the_same_shape_is_kept_whole(size, factor):
    larger = (size[0] * factor, size[1] * factor)
    assert crop_box(larger, size) == (0, 0, *larger)
    assert crop_box(size, larger) == (0, 0, *size)
    assert fit_box(larger, size) == (0, 0, *size)
    assert kept_fraction(larger, *size) == 1.0


@given(sizes, sizes, st.sampled_from(["crop", "fit", "blur"]))
def test_kept_fraction_is_a_fraction(source, target, framing):
    kept = kept_fraction(source, *target, framing)
    assert 0 < kept <= 1
    assert framing == "crop" or kept == 1


def test_the_known_heavy_crop():
    # the reference pipeline keeps 31 % of a phone's portrait and says nothing
    assert kept_fraction((1080, 1920), 1280, 704) == pytest.approx(0.31, abs=0.005)
    assert kept_fraction((1080, 1920), 512, 512) == pytest.approx(0.5625)
