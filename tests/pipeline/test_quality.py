"""The gate's judgement over figures: which are a flaw, and that the limits mean what they say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.quality import FLAWS, Measurements, QualityLimits, find_flaw

SOUND = Measurements(black=0.0, grey=0.01, motion=2.0, similarity=0.95)


@pytest.mark.parametrize(
    ("changed", "kind", "says"),
    [
        ({"black": 0.125}, "black", "12% of the frames are black (quality.black = 0)"),
        ({"grey": 0.63}, "grey", "63% of a frame turned grey (quality.grey = 0.4)"),
        ({"motion": 0.1}, "frozen", "nothing moves: 0.10 levels at most (quality.motion = 0.25)"),
        ({"similarity": -0.3}, "unlike", "similarity -0.30 (quality.similarity = 0.2)"),
    ],
)
def test_each_flaw_is_told_with_its_figure_and_the_limit_that_would_let_it_pass(
    changed: dict[str, float], kind: str, says: str
) -> None:
    found = find_flaw(SOUND.model_copy(update=changed), QualityLimits())
    assert found is not None
    assert found.kind == kind
    assert found.kind in FLAWS
    assert says in found.reason


def test_a_sound_clip_has_none() -> None:
    assert find_flaw(SOUND, QualityLimits()) is None


FIGURES = st.builds(
    Measurements,
    black=st.floats(0, 1),
    grey=st.floats(0, 1),
    motion=st.floats(0, 255),
    similarity=st.floats(-1, 1),
)


@given(FIGURES)
def test_every_check_can_be_turned_off(figures: Measurements) -> None:
    assert (
        find_flaw(figures, QualityLimits(black=1.0, grey=1.0, motion=0.0, similarity=-1.0)) is None
    )


@given(FIGURES)
def test_figures_at_the_limit_pass(figures: Measurements) -> None:
    limits = QualityLimits.model_validate(figures.model_dump(exclude={"dropped"}))
    assert find_flaw(figures, limits) is None
