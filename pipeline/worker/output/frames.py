"""The frames of a clip between the VAE and the file."""

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
"""(frames, height, width, 3), RGB."""
