"""Presets: named sets of settings, one table per model family.

A family is what the daemon must know about a model without loading it: its presets, its possible
sides, and its training size. Single settings and their ranges are in spec.py.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MICRO = "micro"
"""Value of the model setting for the embedded demonstration checkpoint."""

MICRO_FOLDER = Path(__file__).parents[1] / "micro" / "checkpoint"


Speed = Literal["exact", "balanced", "fast"]
"""Amount of work that may be skipped; sampling_plan.py defines the savings."""


@dataclass(frozen=True)
class Preset:
    """Preset. `side`: pixels of the square with the clip's area. `quality`: CRF of H.264."""

    side: int
    frames: int
    steps: int
    guidance: float
    fps: int = 8
    guidance_rescale: float = 0.0
    quality: int = 18
    speed: Speed = "exact"


@dataclass(frozen=True)
class Family:
    """Model family. `multiple` divides every side; `sides`: the ladder's sizes, descending."""

    name: str
    presets: dict[str, Preset]
    multiple: int
    sides: tuple[int, ...]
    trained: tuple[int, int]
    motion_fps: int = 16

    @property
    def largest_side(self) -> int:
        """Largest side of a clip of this family, in pixels."""
        return self.sides[0] * 2


I2VGEN_XL = Family(
    name="i2vgen-xl",
    presets={
        "draft": Preset(side=256, frames=8, steps=20, guidance=9.0, quality=23),
        "preview": Preset(side=512, frames=8, steps=30, guidance=9.0, quality=20),
        "standard": Preset(side=512, frames=16, steps=50, guidance=9.0),
        "high": Preset(side=768, frames=24, steps=80, guidance=9.0, quality=16),
        "ultra": Preset(side=1024, frames=32, steps=80, guidance=9.0, quality=16),
    },
    multiple=64,
    sides=(1024, 768, 512, 384, 256),
    trained=(1280, 704),
)

MICRO_FAMILY = Family(
    name="micro",
    # Without full rescale any guidance over 1 burns this model's colours: micro/README.md.
    presets={
        "draft": Preset(48, frames=8, steps=10, guidance=1.0, guidance_rescale=1.0, quality=12),
        "preview": Preset(64, frames=8, steps=12, guidance=1.0, guidance_rescale=1.0, quality=12),
        "standard": Preset(64, frames=16, steps=10, guidance=1.0, guidance_rescale=1.0, quality=12),
        "high": Preset(96, frames=16, steps=16, guidance=1.0, guidance_rescale=1.0, quality=12),
        "ultra": Preset(128, frames=16, steps=12, guidance=1.0, guidance_rescale=1.0, quality=12),
    },
    multiple=8,
    sides=(128, 96, 64, 48, 32),
    trained=(64, 64),
)


def family_of(model: str) -> Family:
    """Return the family of a `model` setting: "micro", a folder, or a hub id."""
    if model == MICRO or Path(model).resolve() == MICRO_FOLDER:
        return MICRO_FAMILY
    return I2VGEN_XL
