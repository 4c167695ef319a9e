"""What is on the device when: each network at hand for its work, as the mode says.

Only the UNet may stay from one clip to the next. The encoders and the VAE come for their work and
leave, so that they are never there beside the UNet's largest tensors.
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
from pipeline.worker.optimizations import fused_ops
from pipeline.worker.optimizations.registry import apply, select, vae_patches
from pipeline.worker.patch import patched


def place_model(model: LoadedModel, mode: Mode) -> None:
    """Before a clip: what this mode cannot have on the device beside the encoders leaves it."""
    if mode.policy.weights != "device":
        model.weights.unload(model.unet)


@contextmanager
def encoder_on_device(model: LoadedModel, network: nn.Module) -> Iterator[None]:
    """Within, an encoder can be called once: its layers come one by one, which costs no more."""
    layers = next(part for part in network.modules() if isinstance(part, nn.ModuleList))
    with group_offload(model.weights, network, [*layers]):
        yield


@contextmanager
def unet_on_device(model: LoadedModel, mode: Mode) -> Iterator[Any]:
    """Within, the UNet computes as thriftily as the mode says, and as fast as that allows."""
    thrift = mode.policy
    with ExitStack() as stack:
        match thrift.weights:
            case "device":
                model.weights.load(model.unet)
                model.weights.set_layout(
                    model.unet, channels_last=fused_ops.enabled() and thrift.chunk is None
                )
            case "float8":
                stack.enter_context(
                    layerwise_cast(model.weights, model.unet, [*_pieces(model.unet)])
                )
            case "host":
                model.weights.pin(model.unet)
                stack.enter_context(
                    group_offload(model.weights, model.unet, [*_pieces(model.unet)])
                )
        stack.enter_context(apply(model.unet, select(thrift, model.device)))
        stack.enter_context(patched(chunk_feed_forward(model.unet, thrift.ff_chunk)))
        if thrift.chunk is not None:
            stack.enter_context(patched(chunk_frames(model.unet, thrift.chunk)))
            stack.enter_context(patched(chunk_pixels(model.unet, thrift.chunk)))
        yield model.unet


@contextmanager
def vae_on_device(model: LoadedModel, *, striped: bool) -> Iterator[None]:
    """Within, the VAE is at hand, in the model's type unless it is brought in another.

    It upsamples with less work, but for stripes, which spare memory instead.
    """
    try:
        model.weights.load(model.vae)
        model.weights.set_layout(model.vae, channels_last=fused_ops.enabled() and not striped)
        with patched(tile_vae(model.vae, VAE_TILE_PIXELS) if striped else vae_patches(model.vae)):
            yield
    finally:
        model.weights.unload(model.vae)


def _pieces(unet: Any) -> Iterator[nn.Module]:
    """The convolutions and transformers within the blocks: nearly all of the UNet's weights."""
    for block in chain(unet.down_blocks, [unet.mid_block], unet.up_blocks):
        for children in block.children():
            yield from children
