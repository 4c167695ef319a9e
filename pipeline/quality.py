"""Quality check: measurements of a clip's frames, their limits, and the flaws.

Pure; worker/output/quality.py measures. The limits are far from what a working model gives,
because a check that rejects good clips is worse than none.
"""

from typing import Annotated, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field

FlawKind = Literal["not_finite", "black", "grey", "frozen", "unlike"]
FLAWS: tuple[FlawKind, ...] = get_args(FlawKind)

Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Levels = Annotated[float, Field(ge=0.0, le=255.0, allow_inf_nan=False)]
Similarity = Annotated[float, Field(ge=-1.0, le=1.0, allow_inf_nan=False)]


class QualityLimits(BaseModel):
    """Limits of the quality check."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    black: Share = 0.0
    """Largest share of black frames; 1 turns the check off."""
    grey: Share = 0.4
    """Largest share of a frame that suddenly is mid-grey; 1 turns the check off."""
    motion: Levels = 0.25
    """Least motion, in levels of 255; 0 turns the check off."""
    similarity: Similarity = 0.2
    """Least similarity of the first frame to the picture; -1 turns the check off."""


NO_LIMITS = QualityLimits(black=1.0, grey=1.0, motion=0.0, similarity=-1.0)
"""Turns every check off, for random weights or too few steps."""


class Measurements(BaseModel):
    """Measurements of a clip's frames, compared with the framed picture."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    black: Share
    """Share of frames that are black though the picture is not."""
    grey: Share
    """Largest rise of a frame's mid-grey share over the picture and all earlier frames."""
    motion: Levels
    """Largest mean difference of a frame to the first frame, in levels of 255."""
    similarity: Similarity
    """Structural similarity (SSIM) of the first frame to the picture, as thumbnails; 1 is equal."""
    dropped: Annotated[int, Field(ge=0, le=1)] = 0
    """1 if a grey last frame was dropped."""


class Flaw(NamedTuple):
    """Flaw of a clip: `kind` as in the metrics' label, `reason` as a sentence."""

    kind: FlawKind
    reason: str


def find_flaw(figures: Measurements, limits: QualityLimits) -> Flaw | None:
    """Return the first flaw, or None."""
    if figures.black > limits.black:
        told = f"{figures.black:.0%} of the frames are black (quality.black = {limits.black:g})"
        return Flaw("black", told)
    if figures.grey > limits.grey:
        told = f"{figures.grey:.0%} of a frame turned grey (quality.grey = {limits.grey:g})"
        return Flaw("grey", told)
    if figures.similarity < limits.similarity:
        told = (
            f"the first frame is not the picture: similarity {figures.similarity:.2f} "
            f"(quality.similarity = {limits.similarity:g})"
        )
        return Flaw("unlike", told)
    if figures.motion < limits.motion:
        told = (
            f"nothing moves: {figures.motion:.2f} levels at most "
            f"(quality.motion = {limits.motion:g})"
        )
        return Flaw("frozen", told)
    return None
