"""The gate: whether frames are a clip at all, and known faults of the model that should be told."""

import numpy as np

from pipeline.worker.decode import Frames
from pipeline.worker.errors import Spoilt

_BLACK = 8
_GREY = range(117, 138)
_GREY_SHARE = 0.4


def findings(frames: Frames) -> list[str]:
    """What is odd about (frames, height, width, 3) bytes. Raises Spoilt where it is no clip.

    The authors' own writer drops a last frame of which more than 40 % is mid-grey (VGen,
    utils/video_op.py); we tell of it.
    """
    if int(frames.max()) <= _BLACK:
        raise Spoilt("all frames are black")
    found = []
    black = [n for n, frame in enumerate(frames) if int(frame.max()) <= _BLACK]
    if black:
        found.append(f"black frames: {', '.join(map(str, black))}")
    grey = (frames[-1] >= _GREY.start) & (frames[-1] < _GREY.stop)
    if float(np.mean(grey)) > _GREY_SHARE:
        found.append(f"the last frame is {np.mean(grey):.0%} mid-grey")
    return found
