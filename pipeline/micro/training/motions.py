"""Motions of the micro checkpoint as exact maps: the ground truth of its training.

A motion maps each pixel of a frame to the point of the picture that it shows. All maps are affine.
Coordinates are in pixels from the centre, x to the right, y down. Over a clip the motion
reaches the same number of pixels, `reach`, whatever the number of frames: pans move by it, zooms
and rotations move the middle of the shorter edge by it.
"""

from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Motion(StrEnum):
    """Motion of a prompt. Pans and tilts are the camera's: panning right moves content left."""

    STILL = "still"
    PAN_RIGHT = "pan right"
    PAN_LEFT = "pan left"
    TILT_UP = "tilt up"
    TILT_DOWN = "tilt down"
    ZOOM_IN = "zoom in"
    ZOOM_OUT = "zoom out"
    CLOCKWISE = "rotate clockwise"
    COUNTERCLOCKWISE = "rotate counterclockwise"
    GENTLE = "gentle"  # a prompt without a known motion: half a zoom in


OPPOSITES = (
    (Motion.PAN_RIGHT, Motion.PAN_LEFT),
    (Motion.TILT_UP, Motion.TILT_DOWN),
    (Motion.ZOOM_IN, Motion.ZOOM_OUT),
    (Motion.CLOCKWISE, Motion.COUNTERCLOCKWISE),
)

SHARE = 3 / 32  # of the shorter side, reached over the clip
LONGEST = 8.0  # pixels; the UNet's convolutions reach no further


class Affine(NamedTuple):
    """source x = a x + b y + e, source y = c x + d y + f."""

    a: float = 1.0
    b: float = 0.0
    c: float = 0.0
    d: float = 1.0
    e: float = 0.0
    f: float = 0.0


def reach(height: int, width: int) -> float:
    """Return the length of a motion over a clip, in pixels of a picture of this size."""
    return min(SHARE * min(height, width), LONGEST)


def affine(motion: Motion, time: float, height: int, width: int) -> Affine:
    """Return the map of `motion` at `time` (0 at the first frame, 1 at the last)."""
    far = reach(height, width) * time
    turn = 2 * far / min(height, width)
    match motion:
        case Motion.STILL:
            return Affine()
        case Motion.PAN_RIGHT:
            return Affine(e=far)
        case Motion.PAN_LEFT:
            return Affine(e=-far)
        case Motion.TILT_UP:
            return Affine(f=-far)
        case Motion.TILT_DOWN:
            return Affine(f=far)
        case Motion.ZOOM_IN:
            return Affine(a=1 - turn, d=1 - turn)
        case Motion.ZOOM_OUT:
            return Affine(a=1 + turn, d=1 + turn)
        case Motion.GENTLE:
            return Affine(a=1 - turn / 2, d=1 - turn / 2)
        case Motion.CLOCKWISE | Motion.COUNTERCLOCKWISE:
            angle = torch.tensor(turn if motion is Motion.CLOCKWISE else -turn)
            cosine, sine = float(angle.cos()), float(angle.sin())
            return Affine(a=cosine, b=sine, c=-sine, d=cosine)


def grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return coordinates from the centre, x and y, each (height, width)."""
    y, x = torch.meshgrid(
        torch.arange(height) - (height - 1) / 2,
        torch.arange(width) - (width - 1) / 2,
        indexing="ij",
    )
    return x, y


def sources(motion: Motion, time: float, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the source point of each pixel, x and y, each (height, width)."""
    x, y = grid(height, width)
    m = affine(motion, time, height, width)
    return m.a * x + m.b * y + m.e, m.c * x + m.d * y + m.f


def visible(motion: Motion, time: float, height: int, width: int) -> Tensor:
    """Return (height, width): True if the pixel shows a point of the first frame."""
    x, y = sources(motion, time, height, width)
    return (x.abs() <= (width - 1) / 2) & (y.abs() <= (height - 1) / 2)


def two_pass_flow(motion: Motion, time: float, height: int, width: int) -> Tensor:
    """Return (2, height, width): the motion as a shift along x, then one along y, in pixels.

    The UNet gathers along x first and along y last. So the second plane holds, for each pixel, how
    far above or below it the second pass looks; the first plane holds how far to the side the first
    pass must have looked at the place where the second one arrives.
    """
    x, y = grid(height, width)
    m = affine(motion, time, height, width)
    down = m.c * x + (m.d - 1) * y + m.f
    above = (y - m.c * x - m.f) / m.d
    across = (m.a - 1) * x + m.b * above + m.e
    return torch.stack([across, down])


def clip(
    picture: Tensor,
    motion: Motion,
    times: list[float],
    height: int,
    width: int,
    centre: tuple[float, float] | None = None,
    scale: float = 1.0,
) -> Tensor:
    """Warp a window on a larger `picture`: ground truth (frames, 3, height, width).

    `picture` is (3, rows, columns); `centre` is the window's middle as (x, y) in its pixels, by
    default its own; `scale` is how many of its pixels one pixel of the clip spans.
    """
    rows, columns = picture.shape[-2:]
    middle_x, middle_y = centre or ((columns - 1) / 2, (rows - 1) / 2)
    grids = []
    for time in times:
        x, y = sources(motion, time, height, width)
        across = (2 * (middle_x + scale * x) + 1) / columns - 1
        down = (2 * (middle_y + scale * y) + 1) / rows - 1
        grids.append(torch.stack([across, down], dim=-1))
    return functional.grid_sample(
        picture.expand(len(times), -1, -1, -1),
        torch.stack(grids),
        mode="bilinear",
        padding_mode="reflection",
        align_corners=False,
    )
