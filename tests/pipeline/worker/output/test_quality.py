"""Quality measurements: each flaw is found, and similar clips without flaws pass."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.quality import FlawKind, QualityLimits, find_flaw
from pipeline.worker.output.quality import examine, motion, similarity
from tests.pipeline.worker.kit import a_picture

LIMITS = QualityLimits()
PICTURE = np.asarray(a_picture())


def panned(picture: Any = PICTURE, frames: int = 8) -> Any:
    """A sound clip: the picture moves to the right, two pixels a frame."""
    return np.stack([np.roll(picture, 2 * n, 1) for n in range(frames)])


def found(frames: Any, picture: Any = PICTURE) -> FlawKind | None:
    _, figures = examine(frames, picture, LIMITS)
    seen = find_flaw(figures, LIMITS)
    return seen.kind if seen else None


def noise(*shape: int) -> Any:
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def scrambled(clip: Any) -> Any:
    pixels = np.random.default_rng(2).permutation(clip.reshape(len(clip), -1, 3), axis=1)
    return pixels.reshape(clip.shape)


def test_a_sound_clip_passes() -> None:
    frames, figures = examine(panned(), PICTURE, LIMITS)
    assert find_flaw(figures, LIMITS) is None
    assert len(frames) == 8
    assert figures.similarity == 1.0
    assert figures.motion > 5


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda clip: clip * 0, "black"),
        (lambda clip: np.where(np.arange(8)[:, None, None, None] == 3, 0, clip), "black"),
        (lambda clip: clip * 0 + 127, "grey"),
        (lambda clip: clip[:1].repeat(8, 0), "frozen"),
        (lambda clip: 255 - clip, "unlike"),
        (lambda clip: noise(*clip.shape), "unlike"),
        (scrambled, "unlike"),
    ],
    ids=["black", "a black frame", "grey", "frozen", "negative", "noise", "scrambled"],
)
def test_each_flaw_is_found(spoil: Any, kind: str) -> None:
    assert found(spoil(panned()).astype(np.uint8)) == kind


def test_a_grey_last_frame_is_dropped() -> None:
    clip = panned()
    clip[-1] = 127
    frames, figures = examine(clip, PICTURE, LIMITS)
    assert len(frames) == 7
    assert figures.dropped == 1
    assert find_flaw(figures, LIMITS) is None


def test_grey_before_the_last_frame_is_a_flaw() -> None:
    clip = panned()
    clip[-2:] = 127
    assert found(clip) == "grey"


def test_a_grey_picture_is_no_flaw() -> None:
    wall = np.clip(noise(64, 64, 3) // 16 + 118, 0, 255).astype(np.uint8)
    wall[:, :8] = PICTURE[:, :8]
    assert found(panned(wall), wall) is None


def test_a_camera_that_slowly_reaches_a_grey_wall_is_no_flaw() -> None:
    clip = panned()
    for number in range(8):
        clip[number, :, : 8 * number] = 127
    assert found(clip) is None


def test_a_dark_picture_may_have_dark_frames() -> None:
    night = (PICTURE // 20).astype(np.uint8)
    assert found(panned(night), night) is None
    black = np.zeros_like(PICTURE)
    still_night = panned(black)
    still_night[1::2] += 1
    assert found(still_night, black) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p * 0.5,
        lambda p: 127 + (p - 127) * 0.5,
        lambda p: np.clip(127 + (p - 127) * 1.8, 0, 255),
        lambda p: np.clip(p + np.array([30.0, 0.0, -30.0]), 0, 255),
        lambda p: np.roll(p, 2, 1),
    ],
    ids=["darker", "paler", "burnt", "tinted", "moved"],
)
def test_a_first_frame_that_differs_as_models_do_is_still_the_picture(change: Any) -> None:
    frame = change(PICTURE.astype(float)).astype(np.uint8)
    assert similarity(frame, PICTURE) > 2 * LIMITS.similarity


PIXELS = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).integers(0, 256, (48, 32, 3), np.uint8)
)


@given(PIXELS, PIXELS)
def test_similarity_is_symmetric_and_within_its_range(one: Any, other: Any) -> None:
    assert similarity(one, one) == pytest.approx(1.0)
    assert similarity(one, other) == pytest.approx(similarity(other, one))
    assert -1.0 <= similarity(one, other) <= 1.0


@given(PIXELS, st.integers(2, 12))
def test_frames_that_are_all_the_same_have_no_motion(frame: Any, count: int) -> None:
    assert motion(np.stack([frame] * count)) == 0.0
    assert motion(np.stack([frame] * count + [255 - frame])) > 0.0
