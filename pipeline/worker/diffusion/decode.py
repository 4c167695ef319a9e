"""Decoding: from latents to frames. The latents survive lack of memory, so only this is repeated.

The VAE sees each frame alone, and on stripes its statistics are still those of the whole frame: no
way of decoding changes more than rounding.
"""

import gc
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pipeline.memory.modes import MemoryPolicy
from pipeline.quality import Flaw
from pipeline.worker import placement
from pipeline.worker.errors import QualityFailure, is_out_of_memory
from pipeline.worker.model.loader import LoadedModel
from pipeline.worker.optimizations.cuda_graph import Work, cuda_graphed
from pipeline.worker.output.frames import Frames

_WORTH_RECORDING = 3
"""Chunks; the first is decoded before, and the second while they are recorded."""


def decode(
    model: LoadedModel, latents: Tensor, policy: MemoryPolicy, *, on_step: Callable[[int], None]
) -> Frames:
    """Decode (1, 4, frames, height, width) latents, as many frames at once as `thrift` says.

    Where memory does not suffice: in stripes, without the UNet beside them. `on_step` gets the
    frames done. Raises Spoilt if the frames are not finite, and what lack of memory raises.
    """
    cells = (latents / model.vae.config.scaling_factor)[0].transpose(0, 1)
    if not policy.vae_tiling:
        try:
            return _decode(
                model, cells, frames_at_once(cells, policy), striped=False, on_step=on_step
            )
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        print("no memory to decode whole frames; going on in stripes", file=sys.stderr)
        model.weights.unload(model.unet)
        release(model.device)
    return _decode(model, cells, 1, striped=True, on_step=on_step)


def frames_at_once(cells: Tensor, policy: MemoryPolicy) -> int:
    """How many frames of (frames, 4, height, width) are decoded at once."""
    return max(1, policy.decoded // (cells.shape[-2] * cells.shape[-1]))


def _decode(
    model: LoadedModel, cells: Tensor, count: int, *, striped: bool, on_step: Callable[[int], None]
) -> Frames:
    frames = []
    chunks = torch.split(cells.to(model.dtype), count)
    with placement.vae_on_device(model, striped=striped):
        decoded: Work = partial(_decoded, model)
        if model.device.type == "cuda" and not striped and len(chunks) > _WORTH_RECORDING:
            decoded = cuda_graphed(decoded, model.device)
        for chunk in chunks:
            values = decoded(chunk)
            if not torch.isfinite(values).all():
                decoded = partial(_decoded, model)  # the weights lie elsewhere from now on
                values = _widened(model, chunk)
            frames.append(_pixels(values))
            on_step(sum(map(len, frames)))
    return np.concatenate(frames)


def _decoded(model: LoadedModel, chunk: Tensor) -> Tensor:
    values: Tensor = model.vae.decode(chunk).sample
    return values.float()


def _widened(model: LoadedModel, chunk: Tensor) -> Tensor:
    """Decoded in float32, where half precision overflows."""
    model.weights.load(model.vae, torch.float32)
    values = _decoded(model, chunk.float())
    model.weights.load(model.vae)
    if not torch.isfinite(values).all():
        raise QualityFailure(Flaw("not_finite", "the frames are not numbers"))
    return values


def _pixels(values: Tensor) -> Frames:
    """(n, 3, height, width) in -1..1 to bytes."""
    scaled = (values / 2.0 + 0.5).clamp(0.0, 1.0).mul(255.0).round()
    pixels: Frames = scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def release(device: torch.device) -> None:
    """Give back memory that nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
