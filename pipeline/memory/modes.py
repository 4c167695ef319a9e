"""Memory modes: how the worker holds the model, from the fastest to the smallest.

In every mode the encoders and the VAE are on the device only while they run, the encoders one
layer at a time. Modes differ in where the UNet's weights are, and how large the chunks of a clip
are. The worker applies these policies, and model.py predicts from them.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from pipeline.request.spec import Spec


@dataclass(frozen=True)
class MemoryPolicy:
    """Memory savings of a mode.

    `ff_chunk`: vectors that a feed-forward processes at once. `chunk`: latent cells that any other
    part of the UNet processes at once (at least one frame, or one row of all frames); None: all.
    `sequential_cfg`: the two guidance branches run one after the other. `vae_tiling`: the VAE
    processes horizontal stripes of a frame; otherwise as many frames as have `decoded` cells.
    `weights`: where the UNet's weights are: on the device, there in float8, or on the host.
    """

    ff_chunk: int
    chunk: int | None = None
    sequential_cfg: bool = False
    vae_tiling: bool = False
    decoded: int = 0
    weights: Literal["device", "float8", "host"] = "device"


class Mode(StrEnum):
    """Memory mode of the worker. All but FP8 give the same pixels, up to rounding."""

    RESIDENT = "resident"
    """UNet on the device; only its feed-forwards, the largest tensors, are chunked."""
    CHUNKED = "chunked"
    """UNet on the device; all its parts are chunked, guidance branches are sequential."""
    FP8 = "fp8"
    """Layerwise casting: as CHUNKED, with the UNet's weights in float8. Lossy, so opt-in."""
    OFFLOAD = "offload"
    """Group offloading: as CHUNKED, with the UNet's weights in host memory, loaded part by part."""

    @property
    def exact(self) -> bool:
        """Return True if the pixels equal those of every other exact mode."""
        return self is not Mode.FP8

    @property
    def policy(self) -> MemoryPolicy:
        """Memory savings of this mode."""
        return _POLICIES[self]


_POLICIES = {
    Mode.RESIDENT: MemoryPolicy(ff_chunk=1 << 15, decoded=1 << 12),
    Mode.CHUNKED: MemoryPolicy(
        ff_chunk=1 << 13, chunk=1 << 13, sequential_cfg=True, vae_tiling=True
    ),
    Mode.FP8: MemoryPolicy(
        ff_chunk=1 << 13, chunk=1 << 13, sequential_cfg=True, vae_tiling=True, weights="float8"
    ),
    Mode.OFFLOAD: MemoryPolicy(
        ff_chunk=1 << 13, chunk=1 << 13, sequential_cfg=True, vae_tiling=True, weights="host"
    ),
}


@dataclass(frozen=True)
class Rung:
    """Rung of the ladder: a mode, and a size in pixels and frames."""

    mode: Mode
    width: int
    height: int
    frames: int

    def degrades(self, spec: Spec) -> bool:
        """Return True if the clip is smaller or shorter than requested."""
        return (self.width, self.height, self.frames) != (spec.width, spec.height, spec.frames)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, {self.frames} frames, {self.mode}"


VAE_TILE_PIXELS = 1 << 16
"""Pixels of a frame that the VAE processes at once with VAE tiling."""
