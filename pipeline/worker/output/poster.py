"""Poster: the first frame as a small JPEG, so that a page of clips loads no video."""

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.children.protocol import MAX_POSTER_BYTES

_LONGER_SIDE_PIXELS = 480
_QUALITIES = (80, 60, 40)


def write_poster(path: Path, frame: NDArray[np.uint8]) -> None:
    """Write a (height, width, 3) RGB frame to `path`, a new file.

    On a write error, or if the JPEG is too large, there is no poster; the clip does not fail.
    """
    image = Image.fromarray(frame)
    image.thumbnail((_LONGER_SIDE_PIXELS, _LONGER_SIDE_PIXELS), Image.Resampling.LANCZOS)
    for quality in _QUALITIES:
        out = BytesIO()
        image.save(out, "JPEG", quality=quality, optimize=True)
        if out.tell() <= MAX_POSTER_BYTES:
            break
    else:
        return
    try:
        with path.open("xb") as file:
            file.write(out.getvalue())
    except OSError as error:
        print(f"poster not written: {error}", file=sys.stderr)
