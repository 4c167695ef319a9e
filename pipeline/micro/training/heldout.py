"""Held-out data: pictures that are not in the training set, prompts, and ground-truth clips.

A picture is larger than the frame, so the ground truth is known beyond the edge of the frame.
Generation is in `clip`, comparison in `metrics`.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.micro.training import motions, pictures
from pipeline.micro.training.clip import Setting
from pipeline.micro.training.motions import Motion

PHOTOGRAPHS = Path(__file__).parent / "photographs"
SEED = 9_000_001  # for procedural pictures that are not in the training set
MARGIN = 1.3  # side of the picture, in sides of the frame
JUDGED: tuple[Motion, ...] = tuple(motion for motion in Motion if motion is not Motion.GENTLE)

PROMPTS = {
    Motion.STILL: "a still picture, nothing moves",
    Motion.PAN_RIGHT: "camera panning right",
    Motion.PAN_LEFT: "the camera pans slowly to the left",
    Motion.TILT_UP: "camera tilting up",
    Motion.TILT_DOWN: "the camera moves down",
    Motion.ZOOM_IN: "slow zoom in, cinematic",
    Motion.ZOOM_OUT: "zooming out slowly",
    Motion.CLOCKWISE: "slow clockwise rotation",
    Motion.COUNTERCLOCKWISE: "rotating slowly counterclockwise",
    Motion.GENTLE: "A cat turning its head slowly",
}


def photographs(setting: Setting) -> list[Tensor]:
    """Return each photograph as (3, side, side) in -1..1, larger than the frame."""
    return [_larger(Image.open(path), setting) for path in sorted(PHOTOGRAPHS.glob("*.jpg"))]


def procedural(setting: Setting, count: int) -> list[Tensor]:
    """Return `count` procedural pictures in the same form."""
    made = pictures.bank(count, SEED) if count else ()
    return [_larger(Image.fromarray(array), setting) for array in made]


def _larger(image: Image.Image, setting: Setting) -> Tensor:
    side = round(max(setting.width, setting.height) * MARGIN)
    return to_tensor(image.resize((side, side), Image.Resampling.LANCZOS))


def to_tensor(image: Image.Image) -> Tensor:
    """Convert an image to (3, height, width) in -1..1."""
    pixels = torch.from_numpy(np.asarray(image.convert("RGB"), np.float32))
    return pixels.permute(2, 0, 1) / 127.5 - 1


def to_image(picture: Tensor) -> Image.Image:
    """Convert (3, height, width) in -1..1 to an image."""
    levels = ((picture + 1) * 127.5).round().clamp(0, 255).byte()
    pixels: NDArray[np.uint8] = levels.permute(1, 2, 0).numpy()
    return Image.fromarray(pixels)


def truth(picture: Tensor, motion: Motion, setting: Setting) -> Tensor:
    """Warp a picture larger than the frame: ground truth (frames, 3, height, width) in -1..1."""
    return motions.clip(picture, motion, _times(setting), setting.height, setting.width)


def seen(motion: Motion, setting: Setting) -> Tensor:
    """Return (frames, 1, height, width): 1 if a pixel shows content of the first frame.

    Content beyond the edge of the first frame is unknown to the model, and is not compared.
    """
    masks = [
        motions.visible(motion, time, setting.height, setting.width) for time in _times(setting)
    ]
    return torch.stack(masks).unsqueeze(1).float()


def _times(setting: Setting) -> list[float]:
    return [k / (setting.frames - 1) for k in range(setting.frames)]
