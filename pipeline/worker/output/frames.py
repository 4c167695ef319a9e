"""Type of the decoded frames of a clip."""

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
"""(frames, height, width, 3), RGB, 0..255."""
