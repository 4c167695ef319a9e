"""Live preview: latents to RGB by a linear map, without the VAE.

The mean colour of a latent pixel is nearly linear in its channels. The map is fitted by least
squares once a clip, on the one known pair: the latents and the pixels of the picture.
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

_INTERVAL_SECONDS = 1.0
_LONGER_SIDE_PIXELS = 64
_QUALITIES = (70, 40)
_MAX_BYTES = 10_000
"""Previews that are larger even at the lower quality are dropped."""
_RIDGE = 1e-5
"""Ridge regularisation, as a share of the variance of the latents."""

Colours = NDArray[np.float32]
"""(5, 3): weights of four latent channels and a constant, for red, green and blue in 0..1."""


class Preview:
    """Preview of one clip. `latents` are those of `picture`: (4, height, width)."""

    def __init__(
        self,
        latents: Tensor,
        picture: Image.Image,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._latents = latents
        self._picture = picture
        self._clock = clock
        self._next_due = clock() + _INTERVAL_SECONDS
        self._colours: Colours | None = None
        self._disabled = False

    def of(self, estimate: Tensor) -> bytes | None:
        """Render (1, 4, frames, height, width) latents as a JPEG, at most once a second; else None.

        Never raises: the first error disables the preview of this clip.
        """
        if self._disabled or self._clock() < self._next_due:
            return None
        try:
            jpeg = self._render(estimate)
        except Exception as error:
            self._disabled = True
            print(f"preview disabled: {first_line(error)}", file=sys.stderr)
            return None
        self._next_due = self._clock() + _INTERVAL_SECONDS
        return jpeg

    def _render(self, estimate: Tensor) -> bytes | None:
        if self._colours is None:
            self._colours = colours(self._latents, self._picture)
        return strip(estimate[0], self._colours)


def colours(latents: Tensor, picture: Image.Image) -> Colours:
    """Fit the linear map from (4, height, width) latents to the colours of the picture."""
    height, width = latents.shape[1:]
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BOX), np.float64) / 255.0
    cells = latents.double().cpu().flatten(1).numpy().T
    centred, targets = cells - cells.mean(0), pixels.reshape(-1, 3)
    gram = centred.T @ centred
    ridge = _RIDGE * np.trace(gram) * np.eye(len(gram))
    slopes = np.linalg.lstsq(gram + ridge, centred.T @ targets, rcond=None)[0]
    found: Colours = np.vstack([slopes, targets.mean(0) - cells.mean(0) @ slopes])
    return found.astype(np.float32)


def strip(latents: Tensor, colours: Colours) -> bytes | None:
    """Render PREVIEW_FRAMES frames of (4, frames, height, width) side by side as a small JPEG.

    The frames are evenly spaced from the first to the last. Returns None if it is too large.
    """
    picks = torch.linspace(0, latents.shape[1] - 1, PREVIEW_FRAMES).round().long()
    frames = latents[:, picks.to(latents.device)].float().transpose(0, 1).cpu()
    if (longer := max(frames.shape[2:])) > _LONGER_SIDE_PIXELS:
        size = [max(1, round(side * _LONGER_SIDE_PIXELS / longer)) for side in frames.shape[2:]]
        frames = functional.interpolate(frames, size, mode="area")
    pixels = np.einsum("fchw,cr->hfwr", frames.numpy(), colours[:-1]) + colours[-1]
    across = np.clip(pixels * 255.0, 0.0, 255.0).astype(np.uint8).reshape(len(pixels), -1, 3)
    for quality in _QUALITIES:
        out = BytesIO()
        Image.fromarray(across).save(out, "JPEG", quality=quality)
        if out.tell() <= _MAX_BYTES:
            return out.getvalue()
    return None
