"""The gate in numbers: what is measured of a clip's frames, the limits, and what is a flaw.

Pure; the measuring is worker/gate.py's. The limits stand far from what a working model gives: a
gate that refuses good clips is worse than none.
"""

from typing import Annotated, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field

FlawKind = Literal["not_finite", "black", "grey", "frozen", "unlike"]
FLAWS: tuple[FlawKind, ...] = get_args(FlawKind)

Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


class QualityLimits(BaseModel):
    """What a clip may look like."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    black: Share = 0.0
    """Largest share of black frames; 1 turns the check off."""
    grey: Share = 0.4
    """Largest share of a frame that suddenly is mid-grey; 1 turns the check off."""
    motion: Annotated[float, Field(ge=0.0, le=255.0, allow_inf_nan=False)] = 0.25
    """Least motion, in levels of 255; 0 turns the check off."""
    similarity: Annotated[float, Field(ge=-1.0, le=1.0, allow_inf_nan=False)] = 0.2
    """Least similarity of the first frame to the picture; -1 turns the check off."""


NO_LIMITS = QualityLimits(black=1.0, grey=1.0, motion=0.0, similarity=-1.0)
"""For clips that need not look like anything: of random weights, or of too few steps."""


class Measurements(BaseModel):
    """What was measured of a clip's frames, against the framed picture."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    black: float
    """Share of frames that are black though the picture is not."""
    grey: float
    """Most by which the mid-grey share of a frame rises over the picture and all frames before."""
    motion: float
    """Mean difference of a pixel to the first frame, in levels of 255, where it is largest."""
    similarity: float
    """Structural similarity (SSIM) of the first frame to the picture, as thumbnails; 1 is equal."""
    dropped: int = 0
    """1 where a grey last frame was taken off."""


class Flaw(NamedTuple):
    """Why frames are no clip: the kind as metrics have it, and a sentence."""

    kind: FlawKind
    reason: str


def find_flaw(figures: Measurements, limits: QualityLimits) -> Flaw | None:
    """The first thing that is wrong; None where frames are a clip."""
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
