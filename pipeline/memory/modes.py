"""Modes: the ways in which the worker can hold the model, from the fastest to the smallest.

In every mode the encoders and the VAE are on the device only while they work, the encoders one
layer at a time. What differs is where the UNet's weights are, and how large a piece of a clip goes
through it at once. The worker does as it stands here; memory.py predicts from it.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from pipeline.request.spec import Spec


@dataclass(frozen=True)
class MemoryPolicy:
    """What a mode spares.

    `rows`: vectors that a feed-forward takes at once. `cells`: latent cells that any other part of
    the UNet takes at once (at least one frame, or one row of all frames); None: all of the clip.
    `halves`: the two branches of guidance go one after the other. `stripes`: the VAE works on
    stripes of a frame, else on as many frames as have `decoded` cells. `weights`: where the UNet's
    weights are: on the device, there in eight bits, or on the host.
    """

    ff_chunk: int
    chunk: int | None = None
    sequential_cfg: bool = False
    vae_tiling: bool = False
    decoded: int = 0
    weights: Literal["device", "float8", "host"] = "device"


class Mode(StrEnum):
    """How the worker holds the model. All but FP8 give the same pixels, up to rounding."""

    FAST = "fast"
    """The UNet stays on the device; only its feed-forwards, the largest tensors, go in chunks."""
    LEAN = "lean"
    """The UNet stays; all its work goes in slices, and guidance one branch after the other."""
    FP8 = "fp8"
    """Lean, and the UNet's weights are kept in eight bits. Lossy: only where it was allowed."""
    OFFLOAD = "offload"
    """Lean, and the UNet's weights come from host memory, each part when it is needed."""

    @property
    def exact(self) -> bool:
        """Whether the pixels are those of every other exact mode."""
        return self is not Mode.FP8

    @property
    def policy(self) -> MemoryPolicy:
        """What this mode spares."""
        return _POLICIES[self]


_POLICIES = {
    Mode.FAST: MemoryPolicy(ff_chunk=1 << 15, decoded=1 << 12),
    Mode.LEAN: MemoryPolicy(ff_chunk=1 << 13, chunk=1 << 13, sequential_cfg=True, vae_tiling=True),
    Mode.FP8: MemoryPolicy(
        ff_chunk=1 << 13, chunk=1 << 13, sequential_cfg=True, vae_tiling=True, weights="float8"
    ),
    Mode.OFFLOAD: MemoryPolicy(
        ff_chunk=1 << 13, chunk=1 << 13, sequential_cfg=True, vae_tiling=True, weights="host"
    ),
}


@dataclass(frozen=True)
class Rung:
    """One way to try a clip: a mode, and a size in pixels and frames."""

    mode: Mode
    width: int
    height: int
    frames: int

    def degrades(self, spec: Spec) -> bool:
        """Whether the clip is smaller or shorter than asked."""
        return (self.width, self.height, self.frames) != (spec.width, spec.height, spec.frames)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, {self.frames} frames, {self.mode}"


VAE_TILE_PIXELS = 1 << 16
"""Pixels of a frame that the VAE takes at once where it works on stripes."""
