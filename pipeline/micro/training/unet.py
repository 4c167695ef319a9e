"""UNet of the micro checkpoint, and its initial weights.

The class is that of the full model, with tiny widths. Hours of CPU time do not suffice for a
network of this size to learn how to move a picture. So the initial weights contain the mechanism,
and training learns the flow that drives it:

- `transformer_in` copies the picture's latents from the first frame to every frame, and reads the
  position mark of each frame as its time;
- the two lower levels are random: they learn to predict a flow from prompt, time and position;
- the residual blocks of the last up block move the copied latents along that flow, the first two
  along x, the last two along y, each by up to two latent pixels;
- `conv_out` returns the moved latents, and a little of the noisy clip, as the prediction of the
  clean clip.

All weights stay trainable.
"""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from diffusers import I2VGenXLUNet
from torch import Tensor, nn

from pipeline.micro.training.vae import DETAIL, LATENTS, OFFSET

Layers = Any  # torch types the members of a module as `Tensor | Module`, which says nothing

WIDTHS = (40, 48, 64)
CONTEXT = 64  # text, image latents and image embedding meet in vectors of this size
HEAD = 8

# Channels of the highest level. Signs come in pairs: silu(x) - silu(-x) = x, and the mean over the
# channels, which the norms subtract, is constant.
COPY = 0  # 8: the first frame's latents, then their negatives
NOISY = 8  # 8: the noisy clip, then its negative
ANCHOR = 16  # 2: constants of opposite sign that dwarf the rest, so that norms only scale
FLOW = 18  # 4: along x, along y, in latent pixels, then their negatives
TIME = 22  # 2: 0 in the first frame to 1 in the last, then its negative
GIVEN = 24  # 4: the image latents as they came: a picture in frame 0, then marks
NEARBY = 28  # 1: the detail channel's mean over 3 x 3: below zero only where a picture was given
FLAG = 29  # 1: one in the uncond branch, where the image embedding is zero
CONSTANT = 30  # 1: carries the latents' offset to the end
SPARE = 31

STRENGTH = 32.0  # of the anchors
GATE_SLOPE = 2.6  # silu'(x) is 0 at -1.3 and 1 at 1.3: a linear gate from one pixel to the next
NUDGE = 0.25  # the picture's amplitude at a gate: small, so that the gate multiplies it
GATE_ANCHOR = 200.0  # the anchors among the gates
LIFT = 16.0  # carries the flow, of either sign, through a SiLU
MUTE = 24.0  # subtracted from the copy, of both signs, if the flag is set
STEADY = 8.0  # the constant
LEAK = 0.1  # of the noisy clip in the prediction: as much as remains of it is a clip's grain
SHUT = 20.0  # added to a gate at the picture's edge, where there is no neighbour to fetch


def build() -> I2VGenXLUNet:
    """Build the network with random weights."""
    return I2VGenXLUNet(
        sample_size=32,
        in_channels=LATENTS,
        out_channels=LATENTS,
        block_out_channels=WIDTHS,
        down_block_types=("DownBlock3D", "DownBlock3D", "CrossAttnDownBlock3D"),
        up_block_types=("CrossAttnUpBlock3D", "UpBlock3D", "UpBlock3D"),
        layers_per_block=3,
        norm_num_groups=1,
        cross_attention_dim=CONTEXT,
        attention_head_dim=HEAD,
    ).eval()  # TemporalConvLayer drops out a tenth in training mode


def with_marks(first: Tensor, times: list[float] | Tensor) -> Tensor:
    """Return (n, 4, frames, h, w): image latents, then each later frame's time in all channels.

    `times`: of the frames, for all clips or (n, frames). The pipeline uses evenly spaced times.
    """
    marks = torch.as_tensor(times, dtype=first.dtype)
    marks = marks.expand(len(first), -1).view(len(first), 1, -1, 1, 1)
    given = marks.expand(-1, first.shape[1], -1, *first.shape[-2:]).clone()
    given[:, :, 0] = first
    return given


def clear(*layers: nn.Module) -> None:
    """Set the weights and biases of `layers` to zero."""
    for layer in layers:
        for parameter in layer.parameters():
            parameter.zero_()


@torch.no_grad()
def construct(unet: I2VGenXLUNet) -> None:
    """Write the mechanism into `unet`; the norms still need `fit_norms`."""
    _quiet_context(unet)
    _pass_image_latents(unet)
    _enter(unet)
    _copy_first_frame(unet.transformer_in)
    _feed_lower_levels(unet)
    movers = unet.up_blocks[-1].resnets
    for layer, block in enumerate(movers):
        _shift(block, layer)
    _mute(movers[-1])
    _leave(unet)


def _quiet_context(unet: I2VGenXLUNet) -> None:
    """Initialise the image tokens as zero vectors, so that only the text has an effect."""
    clear(unet.image_latents_context_embedding[-1], unet.context_embedding[-1])


def _pass_image_latents(unet: I2VGenXLUNet) -> None:
    """Make the three convolutions of the image latents the identity."""
    first, second, third = (unet.image_latents_proj_in[index] for index in (0, 2, 4))
    for layer in (first, second, third):
        layer.weight.mul_(0.1)
        layer.bias.zero_()
    for latent in range(LATENTS):
        plus, minus = latent, LATENTS + latent
        for row, sign in ((plus, 1.0), (minus, -1.0)):
            first.weight[row] = 0
            first.weight[row, latent, 1, 1] = sign
            second.weight[row] = 0
            second.weight[row, plus, 1, 1] = sign
            second.weight[row, minus, 1, 1] = -sign
        third.weight[latent] = 0
        third.weight[latent, plus, 1, 1] = 1
        third.weight[latent, minus, 1, 1] = -1
    encoder = unet.image_latents_temporal_encoder
    clear(encoder.attn1.to_out[0], encoder.ff.net[-1])


def _enter(unet: I2VGenXLUNet) -> None:
    """Assign the channels of the highest level."""
    weight, bias = unet.conv_in.weight, unet.conv_in.bias
    weight[:SPARE] = 0
    weight[SPARE:] *= 0.2
    bias.zero_()
    for latent in range(LATENTS):
        weight[NOISY + latent, latent, 1, 1] = 1
        weight[NOISY + LATENTS + latent, latent, 1, 1] = -1
        weight[GIVEN + latent, LATENTS + latent, 1, 1] = 1
    weight[NEARBY, LATENTS + DETAIL] = 1 / 9
    bias[ANCHOR], bias[ANCHOR + 1] = STRENGTH, -STRENGTH


def _copy_first_frame(transformer: Layers) -> None:
    """Make every frame attend to the frame that holds the picture, and copy its latents."""
    project, block = transformer.proj_in, transformer.transformer_blocks[0]
    width = project.out_features
    clear(project, transformer.proj_out, block.attn1.to_out[0], block.attn2.to_out[0])
    clear(block.ff.net[-1], transformer.norm, block.norm1, block.norm3)
    # Norms: on entry all channels, then 64 features, both ruled by the anchors.
    transformer.norm.weight.fill_(STRENGTH * math.sqrt(2 / WIDTHS[0]))
    scale = STRENGTH * math.sqrt(2 / width)
    for norm in (block.norm1, block.norm3):
        norm.weight.fill_(scale)
    given, near, anchor, copied, time, balance = 0, 4, 5, 8, 12, 16  # features inside
    for latent in range(LATENTS):
        project.weight[given + latent, GIVEN + latent] = 1
        project.weight[balance + latent, GIVEN + latent] = -1  # the layer norm subtracts the mean
    project.weight[near, NEARBY] = 1
    project.weight[anchor, ANCHOR] = 1
    project.weight[anchor + 1, ANCHOR + 1] = 1
    attention = block.attn1
    for layer in (attention.to_q, attention.to_k):
        layer.weight[:HEAD] = 0
    attention.to_q.weight[0, anchor] = 16 * math.sqrt(HEAD) / STRENGTH
    attention.to_k.weight[0, near] = -1
    attention.to_v.weight[:HEAD] = 0
    for latent in range(LATENTS):
        attention.to_v.weight[latent, given + latent] = 1
        attention.to_out[0].weight[copied + latent, latent] = 1
    # Time: the mark itself where it is positive, by a gated unit whose other factor is constant.
    gate, hidden = block.ff.net[0].proj, block.ff.net[2]
    units = gate.out_features // 2
    gate.weight[0] = 0
    gate.weight[units] = 0
    gate.bias[0], gate.bias[units] = 1, 0
    gate.weight[units, given + DETAIL] = 60
    hidden.weight[time, 0] = 1 / 60
    out = transformer.proj_out
    for latent in range(LATENTS):
        for row, sign in ((COPY + latent, 1.0), (COPY + LATENTS + latent, -1.0)):
            out.weight[row, copied + latent] = sign
            if latent == DETAIL:
                out.bias[row] = -sign * OFFSET
        out.weight[GIVEN + latent, given + latent] = -1  # read, and no longer needed
    out.weight[NEARBY, near] = -1
    out.weight[TIME, time] = 1
    out.weight[TIME + 1, time] = -1


def _feed_lower_levels(unet: I2VGenXLUNet) -> None:
    """Pass time and, through the padding, the edges to the lower levels, but no picture."""
    for block in unet.down_blocks[0].resnets:
        clear(block.conv2)
    down = unet.down_blocks[0].downsamplers[0].conv
    kept = torch.zeros(WIDTHS[0])
    kept[TIME] = 3.0
    kept[ANCHOR] = 3.0 / STRENGTH
    down.weight.mul_(kept.view(1, -1, 1, 1))
    up = unet.up_blocks[-2].upsamplers[0].conv
    up.weight[3:] = 0  # only the flow and the flag of their output are used
    up.bias[3:] = 0


def _shift(block: Layers, layer: int) -> None:
    """Make one residual block move the copy along an axis, by up to two pixels.

    Towards each side there are two gates: the first adds the difference to the next pixel, the
    second the difference from there to the one after. A gate is the slope of SiLU: two units carry
    gate + difference and gate - difference, and the block takes what sets them apart.
    """
    lower = WIDTHS[1] if layer == 0 else 0
    flow = 0 if layer == 0 else FLOW
    copy, anchor = lower + COPY, lower + ANCHOR
    axis, nearest = layer // 2, 2 * (layer % 2)
    clear(block.conv1, block.conv2, block.time_emb_proj)
    first, second = block.conv1, block.conv2
    units = product((1, -1), (0, 1), range(LATENTS), (1.0, -1.0))
    for unit, (side, pixel, latent, sign) in enumerate(units):
        ahead = (1, 1 + side) if axis == 0 else (1 + side, 1)
        row = first.weight[unit]
        row[flow + axis, 1, 1] = GATE_SLOPE * side
        first.bias[unit] = -GATE_SLOPE * (nearest + pixel + 0.5 + side * LIFT)
        for half, way in ((copy, sign), (copy + LATENTS, -sign)):
            row[half + latent][ahead] = way * NUDGE
            row[half + latent, 1, 1] = -way * NUDGE
        row[anchor][ahead] = SHUT / STRENGTH
        row[anchor, 1, 1] = -SHUT / STRENGTH
        place = (1, 1) if pixel == 0 else ahead
        second.weight[COPY + latent, unit][place] = sign / (2 * NUDGE)
        second.weight[COPY + LATENTS + latent, unit][place] = -sign / (2 * NUDGE)
    first.bias[-2], first.bias[-1] = GATE_ANCHOR, -GATE_ANCHOR
    _merge(block.conv_shortcut, layer)


def _merge(shortcut: Layers, layer: int) -> None:
    """Keep copy, anchors and flow; the first layer takes them from skip and lower level."""
    clear(shortcut)
    lower = WIDTHS[1] if layer == 0 else 0
    for channel in range(WIDTHS[0]):
        shortcut.weight[channel, lower + channel] = 1
    if layer == 0:
        shortcut.bias[CONSTANT] = STEADY
        shortcut.weight[FLAG] = 0
        shortcut.weight[FLAG, 2] = 1
        for axis in (0, 1):
            shortcut.weight[FLOW + axis] = 0
            shortcut.weight[FLOW + axis, axis] = 1
            shortcut.weight[FLOW + 2 + axis] = 0
            shortcut.weight[FLOW + 2 + axis, axis] = -1


def _mute(block: Layers) -> None:
    """Make the flag set the prediction to zero.

    The network knows the motion exactly, so guidance has nothing to sharpen, and moving away from
    any other clip would only spoil the prompted one. From an empty prediction, guidance changes the
    contrast alone, and a full guidance rescale takes that back.
    """
    unit = -3
    block.conv1.weight[unit, FLAG, 1, 1] = 20
    block.conv1.bias[unit] = -20 * (0.5 + LIFT)
    for channel in (*range(COPY, COPY + 2 * LATENTS), CONSTANT):
        block.conv2.weight[channel, unit, 1, 1] = -MUTE / 10


def _leave(unet: I2VGenXLUNet) -> None:
    """Return the copy as the prediction."""
    clear(unet.conv_out)
    unet.conv_out.weight[DETAIL, CONSTANT, 1, 1] = (1 - LEAK) * OFFSET / STEADY
    for latent in range(LATENTS):
        unet.conv_out.weight[latent, COPY + latent, 1, 1] = 1 - LEAK
        unet.conv_out.weight[latent, COPY + LATENTS + latent, 1, 1] = LEAK - 1
        unet.conv_out.weight[latent, NOISY + latent, 1, 1] = LEAK
        unet.conv_out.weight[latent, NOISY + LATENTS + latent, 1, 1] = -LEAK


@torch.no_grad()
def fit_norms(unet: I2VGenXLUNet, run: Callable[[], object]) -> None:
    """Make the norms of the copy path the identity, from statistics measured while `run` runs."""
    blocks = unet.up_blocks[-1].resnets
    norms = [unet.transformer_in.norm]
    norms += [norm for block in blocks for norm in (block.norm1, block.norm2)]
    norms.append(unet.conv_norm_out)
    for norm in norms:
        measured: list[Tensor] = []
        hook = norm.register_forward_pre_hook(
            lambda _, inputs, seen=measured: seen.append(inputs[0])
        )
        run()
        hook.remove()
        norm.weight.fill_(float(measured[0].std()))
        norm.bias.fill_(float(measured[0].mean()))
        for layer, block in enumerate(blocks):
            if norm is block.norm1:
                flow = 0 if layer == 0 else FLOW
                norm.bias[flow : flow + 2] += LIFT
                if layer == len(blocks) - 1:
                    norm.bias[FLAG] += LIFT
