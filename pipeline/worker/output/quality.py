"""Quality measurements of decoded frames, compared with the framed picture.

pipeline/quality.py defines the figures and their limits.
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
_SSIM_CONSTANTS = (0.01 * 255) ** 2, (0.03 * 255) ** 2
"""C1 and C2 of SSIM (Wang et al. 2004); they dominate if luminance or contrast is near zero."""


def examine(frames: Frames, picture: Picture, limits: QualityLimits) -> tuple[Frames, Measurements]:
    """Return the frames to keep, and their measurements. The picture has the size of the frames.

    If only the last frame turned grey it is dropped, as the model's authors do (VGen,
    utils/video_op.py). Generating the clip again would cost more and might not cure it.
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
    """Return the share of black frames; 0 if the picture itself is nearly black.

    The brightest 1 % of a frame is ignored, so that hot pixels do not hide a black frame.
    """
    if np.percentile(picture, 99) <= 2 * _BLACK:
        return 0.0
    return float(np.mean([np.percentile(frame, 99) <= _BLACK for frame in frames]))


def _grey_rises(frames: Frames, picture: Picture) -> list[float]:
    """Return by how much the mid-grey share of each frame exceeds the picture and earlier frames.

    A grey picture, or a camera that slowly reaches a grey wall, is not a flaw.
    """
    highest, rises = _mid_grey(picture), []
    for frame in frames:
        share = _mid_grey(frame)
        rises.append(share - highest)
        highest = max(highest, share)
    return rises


def _mid_grey(pixels: Picture) -> float:
    return float(np.mean((pixels >= _GREY.start) & (pixels < _GREY.stop)))


def motion(frames: Frames) -> float:
    """Return the largest mean difference of a frame to the first one, in levels of 255."""
    first = frames[0].astype(np.int16)
    return max(float(np.abs(frame - first).mean()) for frame in frames[1:])


def similarity(frame: Picture, picture: Picture) -> float:
    """Return the SSIM of 16 x 16 thumbnails: -1 to 1, symmetric, 1 if equal.

    One window over the whole thumbnail: luminance times contrast and structure, per colour.
    """
    a, b = _thumbnail(frame), _thumbnail(picture)
    c1, c2 = _SSIM_CONSTANTS
    means = a.mean(0), b.mean(0)
    a, b = a - means[0], b - means[1]
    luminance = 2 * (means[0] * means[1]).mean() + c1
    structure = 2 * (a * b).mean() + c2
    return float(
        luminance
        / ((means[0] ** 2 + means[1] ** 2).mean() + c1)
        * structure
        / ((a**2).mean() + (b**2).mean() + c2)
    )


def _thumbnail(pixels: Picture) -> NDArray[np.float64]:
    """Return (256, 3): the mean colours of 16 x 16 blocks."""
    small = Image.fromarray(pixels).resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64).reshape(-1, 3)
