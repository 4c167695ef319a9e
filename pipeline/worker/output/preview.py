"""A small look at a clip while it is made, without the VAE.

A latent cell tells its pixels' mean colour by nearly a line. The line is fitted, once a clip, to
the one pair that is known exactly: the picture's own latents and its own pixels.
"""

import sys
import time
from collections.abc import Callable
from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from pipeline.children.protocol import PREVIEW_FRAMES
from pipeline.worker.errors import first_line

_INTERVAL = 1.0
_LONGER_SIDE = 64
_QUALITIES = (70, 40)
_LARGEST = 10_000
"""Bytes; what is more even at the lower quality is not shown."""
_EASE = 1e-5
"""Share of the latents' variance by which the fit is held to small slopes."""

Colours = NDArray[np.float32]
"""(5, 3): what four latent channels, and a constant, add to red, green and blue in 0..1."""


class Preview:
    """Of one clip. `latents` are the picture's, (4, height, width), `picture` is in its size."""

    def __init__(
        self,
        latents: Tensor,
        picture: Image.Image,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._latents = latents
        self._picture = picture
        self._clock = clock
        self._due = clock() + _INTERVAL
        self._colours: Colours | None = None
        self._broken = False

    def of(self, estimate: Tensor) -> bytes | None:
        """A strip of (1, 4, frames, height, width) latents, at most once a second; else None.

        Never raises: no clip fails for its preview.
        """
        if self._broken or self._clock() < self._due:
            return None
        try:
            found = self._strip(estimate)
        except Exception as error:
            self._broken = True
            print(f"no preview of this clip: {first_line(error)}", file=sys.stderr)
            return None
        self._due = self._clock() + _INTERVAL
        return found

    def _strip(self, estimate: Tensor) -> bytes | None:
        if self._colours is None:
            self._colours = colours(self._latents, self._picture)
        return strip(estimate[0], self._colours)


def colours(latents: Tensor, picture: Image.Image) -> Colours:
    """The linear map from (4, height, width) latents to the picture's colours, by least squares."""
    height, width = latents.shape[1:]
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BOX), np.float64) / 255.0
    cells = latents.double().cpu().flatten(1).numpy().T
    known, wanted = cells - cells.mean(0), pixels.reshape(-1, 3)
    power = known.T @ known
    ease = _EASE * np.trace(power) * np.eye(len(power))
    slopes = np.linalg.lstsq(power + ease, known.T @ wanted, rcond=None)[0]
    found: Colours = np.vstack([slopes, wanted.mean(0) - cells.mean(0) @ slopes])
    return found.astype(np.float32)


def strip(latents: Tensor, colours: Colours) -> bytes | None:
    """PREVIEW_FRAMES frames of (4, frames, height, width) side by side as a small JPEG.

    They are spread evenly from the first to the last. None where they would be too large.
    """
    picks = torch.linspace(0, latents.shape[1] - 1, PREVIEW_FRAMES).round().long()
    frames = latents[:, picks.to(latents.device)].float().transpose(0, 1).cpu()
    if (longer := max(frames.shape[2:])) > _LONGER_SIDE:
        size = [max(1, round(side * _LONGER_SIDE / longer)) for side in frames.shape[2:]]
        frames = functional.interpolate(frames, size, mode="area")
    pixels = np.einsum("fchw,cr->hfwr", frames.numpy(), colours[:-1]) + colours[-1]
    across = np.clip(pixels * 255.0, 0.0, 255.0).astype(np.uint8).reshape(len(pixels), -1, 3)
    for quality in _QUALITIES:
        out = BytesIO()
        Image.fromarray(across).save(out, "JPEG", quality=quality)
        if out.tell() <= _LARGEST:
            return out.getvalue()
    return None
