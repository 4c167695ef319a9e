"""What is on the device when: each network at hand for its work, as the mode says.

Only the UNet may stay from one clip to the next. The encoders and the VAE come for their work and
leave, so that they are never there beside the UNet's largest tensors.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

from torch import nn

from pipeline.memory.modes import STRIPE, Mode
from pipeline.worker.memory.chunking import clips, feed_forwards, images
from pipeline.worker.memory.fp8 import folded
from pipeline.worker.memory.offload import passing
from pipeline.worker.memory.vae_tiling import stripes
from pipeline.worker.model.loader import Model
from pipeline.worker.optimizations import fused_ops
from pipeline.worker.optimizations.registry import applied, chosen, decoding
from pipeline.worker.patch import patched


def prepare(model: Model, mode: Mode) -> None:
    """Before a clip: what this mode cannot have on the device beside the encoders leaves it."""
    if mode.thrift.weights != "device":
        model.weights.leave(model.unet)


@contextmanager
def encoder(model: Model, network: nn.Module) -> Iterator[None]:
    """Within, an encoder can be called once: its layers come one by one, which costs no more."""
    layers = next(part for part in network.modules() if isinstance(part, nn.ModuleList))
    with passing(model.weights, network, [*layers]):
        yield


@contextmanager
def unet(model: Model, mode: Mode) -> Iterator[Any]:
    """Within, the UNet computes as thriftily as the mode says, and as fast as that allows."""
    thrift = mode.thrift
    with ExitStack() as stack:
        match thrift.weights:
            case "device":
                model.weights.bring(model.unet)
                model.weights.lay(
                    model.unet, channels_last=fused_ops.at_work() and thrift.cells is None
                )
            case "float8":
                stack.enter_context(folded(model.weights, model.unet, [*_pieces(model.unet)]))
            case "host":
                model.weights.pin(model.unet)
                stack.enter_context(passing(model.weights, model.unet, [*_pieces(model.unet)]))
        stack.enter_context(applied(model.unet, chosen(thrift, model.device)))
        stack.enter_context(patched(feed_forwards(model.unet, thrift.rows)))
        if thrift.cells is not None:
            stack.enter_context(patched(images(model.unet, thrift.cells)))
            stack.enter_context(patched(clips(model.unet, thrift.cells)))
        yield model.unet


@contextmanager
def vae(model: Model, *, striped: bool) -> Iterator[None]:
    """Within, the VAE is at hand, in the model's type unless it is brought in another.

    It upsamples with less work, but for stripes, which spare memory instead.
    """
    try:
        model.weights.bring(model.vae)
        model.weights.lay(model.vae, channels_last=fused_ops.at_work() and not striped)
        with patched(stripes(model.vae, STRIPE) if striped else decoding(model.vae)):
            yield
    finally:
        model.weights.leave(model.vae)


def _pieces(unet: Any) -> Iterator[nn.Module]:
    """The convolutions and transformers within the blocks: nearly all of the UNet's weights."""
    for block in chain(unet.down_blocks, [unet.mid_block], unet.up_blocks):
        for children in block.children():
            yield from children
