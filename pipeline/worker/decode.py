"""Decoding: from latents to frames. The latents survive lack of memory, so only this is repeated.

The VAE sees each frame alone whatever the chunk, so chunks change nothing but rounding. Tiles are
blended where they overlap; they come last, since they do change the picture a little.
"""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.gate import Flaw
from pipeline.worker.errors import Spoilt, is_out_of_memory
from pipeline.worker.model import Model

Frames = NDArray[np.uint8]
"""(frames, height, width, 3), RGB."""


def decode(
    model: Model, latents: Tensor, *, together: int, on_step: Callable[[int], None]
) -> Frames:
    """Decode (1, 4, frames, height, width) latents, `together` frames at a time.

    Where memory does not suffice: one by one, then in tiles. `on_step` gets the frames done. Raises
    Spoilt if the frames are not finite, and what lack of memory raises if there is too little even
    for tiles.
    """
    cells = (latents / model.vae.config.scaling_factor)[0].transpose(0, 1)
    if together > 1 and (frames := _if_it_fits(model, cells, together, on_step)) is not None:
        return frames
    if (frames := _if_it_fits(model, cells, 1, on_step)) is not None:
        return frames
    with _tiles(model.vae, min(cells.shape[-2:]) // 2):
        return _decode(model, cells, 1, on_step)


def _if_it_fits(
    model: Model, cells: Tensor, together: int, on_step: Callable[[int], None]
) -> Frames | None:
    try:
        return _decode(model, cells, together, on_step)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    release(model.device)
    print(f"no memory to decode frames by {together}; trying smaller pieces", file=sys.stderr)
    return None


def _decode(model: Model, cells: Tensor, together: int, on_step: Callable[[int], None]) -> Frames:
    frames = []
    for chunk in torch.split(cells, together):
        frames.append(_pixels(_finite(model, chunk)))
        on_step(sum(map(len, frames)))
    return np.concatenate(frames)


def _finite(model: Model, chunk: Tensor) -> Tensor:
    """Decoded in the model's type, or where half precision overflows in float32."""
    for dtype in dict.fromkeys((model.dtype, torch.float32)):
        model.weights.bring(model.vae, dtype)
        values: Tensor = model.vae.decode(chunk.to(dtype)).sample.float()
        if torch.isfinite(values).all():
            return values
    raise Spoilt(Flaw("not-finite", "the frames are not numbers"))


def _pixels(values: Tensor) -> Frames:
    """(n, 3, height, width) in -1..1 to bytes."""
    scaled = (values / 2.0 + 0.5).clamp(0.0, 1.0).mul(255.0).round()
    pixels: Frames = scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return pixels


@contextmanager
def _tiles(vae: Any, cells: int) -> Iterator[None]:
    """Within, the VAE works on overlapping squares of `cells` latent cells."""
    before = vae.tile_latent_min_size, vae.tile_sample_min_size
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    vae.tile_latent_min_size, vae.tile_sample_min_size = cells, cells * factor
    vae.enable_tiling()
    try:
        yield
    finally:
        vae.disable_tiling()
        vae.tile_latent_min_size, vae.tile_sample_min_size = before


def release(device: torch.device) -> None:
    """Give back memory that nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
