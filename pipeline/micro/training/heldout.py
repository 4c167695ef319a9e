"""Held-out data: pictures that training never saw, prompts for every motion, and the true clips.

A picture is larger than the frame, so the true warp is known beyond the frame's edge. Left to
others: making clips, comparing them.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.micro.training import motions, pictures
from pipeline.micro.training.film import Setting
from pipeline.micro.training.motions import Motion

PHOTOGRAPHS = Path(__file__).parent / "photographs"
SEED = 9_000_001  # of procedural pictures that training does not use
MARGIN = 1.3  # the picture is this much larger than the frame
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
    """(3, larger, larger) in -1..1, for each photograph."""
    return [_larger(Image.open(path), setting) for path in sorted(PHOTOGRAPHS.glob("*.jpg"))]


def procedural(setting: Setting, count: int) -> list[Tensor]:
    """The same of `count` procedural pictures."""
    made = pictures.bank(count, SEED) if count else ()
    return [_larger(Image.fromarray(array), setting) for array in made]


def _larger(image: Image.Image, setting: Setting) -> Tensor:
    side = round(max(setting.width, setting.height) * MARGIN)
    return to_tensor(image.resize((side, side), Image.Resampling.LANCZOS))


def to_tensor(image: Image.Image) -> Tensor:
    """(3, height, width) in -1..1."""
    pixels = torch.from_numpy(np.asarray(image.convert("RGB"), np.float32))
    return pixels.permute(2, 0, 1) / 127.5 - 1


def to_image(picture: Tensor) -> Image.Image:
    """The image of (3, height, width) in -1..1."""
    levels = ((picture + 1) * 127.5).round().clamp(0, 255).byte()
    pixels: NDArray[np.uint8] = levels.permute(1, 2, 0).numpy()
    return Image.fromarray(pixels)


def truth(picture: Tensor, motion: Motion, setting: Setting) -> Tensor:
    """The true clip, (frames, 3, height, width) in -1..1, of a picture larger than the frame."""
    return motions.clip(picture, motion, _times(setting), setting.height, setting.width)


def seen(motion: Motion, setting: Setting) -> Tensor:
    """(frames, 1, height, width): 1 where a pixel shows what the first frame showed.

    What a camera discovers beyond the edge is anybody's guess, and is not compared.
    """
    masks = [
        motions.visible(motion, time, setting.height, setting.width) for time in _times(setting)
    ]
    return torch.stack(masks).unsqueeze(1).float()


def _times(setting: Setting) -> list[float]:
    return [k / (setting.frames - 1) for k in range(setting.frames)]
