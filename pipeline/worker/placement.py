"""Device placement: which network is on the device at which stage, by memory mode.

Only the UNet may stay from one clip to the next. The encoders and the VAE are loaded for their
stage and unloaded after it, so that they never add to the UNet's peak memory.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

from torch import nn

from pipeline.memory.modes import VAE_TILE_PIXELS, Mode
from pipeline.worker.memory.chunking import chunk_feed_forward, chunk_frames, chunk_pixels
from pipeline.worker.memory.fp8 import layerwise_cast
from pipeline.worker.memory.offload import group_offload
from pipeline.worker.memory.vae_tiling import tile_vae
from pipeline.worker.model.loader import LoadedModel
from pipeline.worker.monkey_patch import patched
from pipeline.worker.optimizations import fused_ops
from pipeline.worker.optimizations.registry import apply, select, vae_patches


def place_model(model: LoadedModel, mode: Mode) -> None:
    """Prepare the device for a clip: unload the UNet unless the memory mode keeps it there."""
    if mode.policy.weights != "device":
        model.weights.unload(model.unet)


@contextmanager
def encoder_on_device(model: LoadedModel, network: nn.Module) -> Iterator[None]:
    """Offload an encoder layer by layer within the context, for a single forward."""
    layers = next(part for part in network.modules() if isinstance(part, nn.ModuleList))
    with group_offload(model.weights, network, [*layers]):
        yield


@contextmanager
def unet_on_device(model: LoadedModel, mode: Mode) -> Iterator[Any]:
    """Yield the UNet, placed and patched for the memory mode within the context."""
    policy = mode.policy
    with ExitStack() as stack:
        match policy.weights:
            case "device":
                model.weights.load(model.unet)
                model.weights.set_layout(
                    model.unet, channels_last=fused_ops.enabled() and policy.chunk is None
                )
            case "float8":
                stack.enter_context(
                    layerwise_cast(model.weights, model.unet, [*_groups(model.unet)])
                )
            case "host":
                model.weights.pin(model.unet)
                stack.enter_context(
                    group_offload(model.weights, model.unet, [*_groups(model.unet)])
                )
        stack.enter_context(apply(model.unet, select(policy, model.device)))
        stack.enter_context(patched(chunk_feed_forward(model.unet, policy.ff_chunk)))
        if policy.chunk is not None:
            stack.enter_context(patched(chunk_frames(model.unet, policy.chunk)))
            stack.enter_context(patched(chunk_pixels(model.unet, policy.chunk)))
        yield model.unet


@contextmanager
def vae_on_device(model: LoadedModel, *, vae_tiling: bool) -> Iterator[None]:
    """Load the VAE within the context, in the model's type, and patch it.

    With `vae_tiling` it is patched for VAE tiling, which saves memory, otherwise for speed.
    """
    try:
        model.weights.load(model.vae)
        model.weights.set_layout(model.vae, channels_last=fused_ops.enabled() and not vae_tiling)
        with patched(
            tile_vae(model.vae, VAE_TILE_PIXELS) if vae_tiling else vae_patches(model.vae)
        ):
            yield
    finally:
        model.weights.unload(model.vae)


def _groups(unet: Any) -> Iterator[nn.Module]:
    """Yield the layers of the blocks: convolutions and transformers, nearly all of the weights."""
    for block in chain(unet.down_blocks, [unet.mid_block], unet.up_blocks):
        for children in block.children():
            yield from children
