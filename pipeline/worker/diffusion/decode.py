"""VAE decoding: from latents to frames. On out-of-memory only the decoding is repeated.

The VAE processes each frame separately. With VAE tiling the statistics are still those of the whole
frame, so no way of decoding changes the result by more than rounding.
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

_MAX_EAGER_CHUNKS = 3
"""Up to this many chunks are decoded eagerly: graph capture takes the first two calls."""


def decode(
    model: LoadedModel, latents: Tensor, policy: MemoryPolicy, *, on_step: Callable[[int], None]
) -> Frames:
    """Decode (1, 4, frames, height, width) latents to (frames, height, width, 3) bytes.

    On out-of-memory the UNet is unloaded and decoding restarts with VAE tiling. `on_step` gets the
    number of decoded frames. Raises QualityFailure if the frames are not finite; a second
    out-of-memory error propagates.
    """
    unscaled = (latents / model.vae.config.scaling_factor)[0].transpose(0, 1)
    if not policy.vae_tiling:
        try:
            return _decode(
                model, unscaled, frames_at_once(unscaled, policy), vae_tiling=False, on_step=on_step
            )
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        print("out of memory while decoding, retrying with VAE tiling", file=sys.stderr)
        model.weights.unload(model.unet)
        release(model.device)
    return _decode(model, unscaled, 1, vae_tiling=True, on_step=on_step)


def frames_at_once(latents: Tensor, policy: MemoryPolicy) -> int:
    """Return the number of frames of (frames, 4, height, width) latents to decode at once."""
    return max(1, policy.decoded // (latents.shape[-2] * latents.shape[-1]))


def _decode(
    model: LoadedModel,
    latents: Tensor,
    count: int,
    *,
    vae_tiling: bool,
    on_step: Callable[[int], None],
) -> Frames:
    frames = []
    chunks = torch.split(latents.to(model.dtype), count)
    with placement.vae_on_device(model, vae_tiling=vae_tiling):
        decode_chunk: Work = partial(_decode_chunk, model)
        if model.device.type == "cuda" and not vae_tiling and len(chunks) > _MAX_EAGER_CHUNKS:
            decode_chunk = cuda_graphed(decode_chunk, model.device)
        for chunk in chunks:
            values = decode_chunk(chunk)
            if not torch.isfinite(values).all():
                decode_chunk = partial(_decode_chunk, model)  # the graph has stale weight addresses
                values = _decode_in_float32(model, chunk)
            frames.append(_pixels(values))
            on_step(sum(map(len, frames)))
    return np.concatenate(frames)


def _decode_chunk(model: LoadedModel, chunk: Tensor) -> Tensor:
    values: Tensor = model.vae.decode(chunk).sample
    return values.float()


def _decode_in_float32(model: LoadedModel, chunk: Tensor) -> Tensor:
    """Decode in float32, after half precision has overflowed. Raises QualityFailure."""
    model.weights.load(model.vae, torch.float32)
    values = _decode_chunk(model, chunk.float())
    model.weights.load(model.vae)
    if not torch.isfinite(values).all():
        raise QualityFailure(Flaw("not_finite", "the frames are not numbers"))
    return values


def _pixels(values: Tensor) -> Frames:
    """Convert (frames, 3, height, width) in -1..1 to (frames, height, width, 3) bytes."""
    scaled = (values / 2.0 + 0.5).clamp(0.0, 1.0).mul(255.0).round()
    pixels: Frames = scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def release(device: torch.device) -> None:
    """Collect garbage and return cached memory to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
