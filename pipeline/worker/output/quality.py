"""The gate's eyes: measures of decoded frames against the framed picture.

What the figures mean, and which are too bad, is said in pipeline/quality.py.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.quality import Measurements, QualityLimits
from pipeline.worker.output.frames import Frames

Picture = NDArray[np.uint8]
"""(height, width, 3), RGB."""

_BLACK = 8
_GREY = range(117, 138)
_THUMBNAIL = 16
_EASE = (0.01 * 255) ** 2, (0.03 * 255) ** 2
"""SSIM's constants (Wang et al. 2004); they decide where there is next to no light or contrast."""


def examine(frames: Frames, picture: Picture, limits: QualityLimits) -> tuple[Frames, Measurements]:
    """The frames that may count, and their figures; both sides of the picture are the frames'.

    A last frame that alone turned grey is taken off, as the model's authors do (VGen,
    utils/video_op.py): to make the whole clip again would cost more, and mend it no more surely.
    """
    rises = _grey_rises(frames, picture)
    dropped = int(rises[-1] > limits.grey and max(rises[:-1]) <= limits.grey)
    if dropped:
        frames, rises = frames[:-1], rises[:-1]
    figures = Measurements(
        black=round(_black(frames, picture), 4),
        grey=round(max(0.0, *rises), 4),
        motion=round(motion(frames), 3),
        similarity=round(similarity(frames[0], picture), 4),
        dropped=dropped,
    )
    return frames, figures


def _black(frames: Frames, picture: Picture) -> float:
    """Share of black frames; none where the picture is next to black itself.

    The brightest hundredth of a frame does not count, so that a few hot pixels hide nothing.
    """
    if np.percentile(picture, 99) <= 2 * _BLACK:
        return 0.0
    return float(np.mean([np.percentile(frame, 99) <= _BLACK for frame in frames]))


def _grey_rises(frames: Frames, picture: Picture) -> list[float]:
    """By how much each frame has more mid-grey than the picture and every frame before it.

    A picture may be grey, and a camera may come slowly upon a grey wall; neither is a flaw.
    """
    most, rises = _mid_grey(picture), []
    for frame in frames:
        share = _mid_grey(frame)
        rises.append(share - most)
        most = max(most, share)
    return rises


def _mid_grey(pixels: Picture) -> float:
    return float(np.mean((pixels >= _GREY.start) & (pixels < _GREY.stop)))


def motion(frames: Frames) -> float:
    """Mean difference to the first frame in levels of 255, of the frame where it is largest."""
    first = frames[0].astype(np.int16)
    return max(float(np.abs(frame - first).mean()) for frame in frames[1:])


def similarity(frame: Picture, picture: Picture) -> float:
    """SSIM of the two as thumbnails of 16 x 16 means: -1 to 1, symmetric, 1 for equals.

    One window over all: light times contrast and structure, each colour by itself.
    """
    a, b = _thumbnail(frame), _thumbnail(picture)
    light, contrast = _EASE
    means = a.mean(0), b.mean(0)
    a, b = a - means[0], b - means[1]
    alight = 2 * (means[0] * means[1]).mean() + light
    alike = 2 * (a * b).mean() + contrast
    return float(
        alight
        / ((means[0] ** 2 + means[1] ** 2).mean() + light)
        * alike
        / ((a**2).mean() + (b**2).mean() + contrast)
    )


def _thumbnail(pixels: Picture) -> NDArray[np.float64]:
    """(256, 3) means of blocks."""
    small = Image.fromarray(pixels).resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64).reshape(-1, 3)
