"""A small, real MP4, which the stand-in worker returns."""

from pathlib import Path

import av
import numpy as np


def film(path: Path) -> Path:
    """Write eight grey frames of 48x48 pixels."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 48
        stream.pix_fmt = "yuv420p"
        for shade in range(8):
            grey = np.full((48, 48, 3), shade * 30, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    return path
