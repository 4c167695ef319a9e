"""The gate's judgement over figures: which are a flaw, and that the limits mean what they say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.quality import FLAWS, Figures, Limits, flaw

SOUND = Figures(black=0.0, grey=0.01, motion=2.0, likeness=0.95)


@pytest.mark.parametrize(
    ("changed", "kind", "says"),
    [
        ({"black": 0.125}, "black", "12% of the frames are black (gate.black = 0)"),
        ({"grey": 0.63}, "grey", "63% of a frame turned grey (gate.grey = 0.4)"),
        ({"motion": 0.1}, "frozen", "nothing moves: 0.10 levels at most (gate.motion = 0.25)"),
        ({"likeness": -0.3}, "unlike", "likeness -0.30 (gate.likeness = 0.2)"),
    ],
)
def test_each_flaw_is_told_with_its_figure_and_the_limit_that_would_let_it_pass(
    changed: dict[str, float], kind: str, says: str
) -> None:
    found = flaw(SOUND.model_copy(update=changed), Limits())
    assert found is not None
    assert found.kind == kind
    assert found.kind in FLAWS
    assert says in found.reason


def test_a_sound_clip_has_none() -> None:
    assert flaw(SOUND, Limits()) is None


FIGURES = st.builds(
    Figures,
    black=st.floats(0, 1),
    grey=st.floats(0, 1),
    motion=st.floats(0, 255),
    likeness=st.floats(-1, 1),
)


@given(FIGURES)
def test_every_check_can_be_turned_off(figures: Figures) -> None:
    assert flaw(figures, Limits(black=1.0, grey=1.0, motion=0.0, likeness=-1.0)) is None


@given(FIGURES)
def test_figures_at_the_limit_pass(figures: Figures) -> None:
    limits = Limits.model_validate(figures.model_dump(exclude={"dropped"}))
    assert flaw(figures, limits) is None
