"""First training stage of the UNet: its lower levels learn the optical flow, without pictures.

The inputs of the lower levels (time, edges, prompt, step, frame rate) are cheap to generate, and
the target flow is known exactly. So this stage runs only the lower levels, frame by frame. The
temporal layers are the identity here and are skipped.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from diffusers import I2VGenXLUNet
from diffusers.models.resnet import TemporalConvLayer
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from PIL import Image
from torch import Tensor, nn

from pipeline.micro.training import prompts, text
from pipeline.micro.training.layout import IMAGE_SIDE, Model
from pipeline.micro.training.motions import Motion, two_pass_flow
from pipeline.micro.training.unet import ANCHOR, CONTEXT, STRENGTH, TIME, WIDTHS, clear

LATENT_TOKENS = 64  # of the context; zero vectors in this stage
SQUARES = (24, 32, 32, 32, 40, 48, 64)  # sides in latents; 32 is the native one
SIDES = (24, 28, 32, 36, 40, 48, 56, 64)  # of oblong pictures
OBLONG = 0.3  # the share of steps whose pictures are oblong
AREA = 12 * 40 * 40  # latent pixels a step, divided among the clips
FEWEST, MOST = 8, 16  # clips a step
RATES = (16, 16, 16, 8, 12, 24, 30)


@torch.no_grad()
def clear_temporal_layers(unet: I2VGenXLUNet) -> None:
    """Initialise the temporal layers of the lower levels as the identity."""
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        for module in block.modules():
            if isinstance(module, TransformerTemporalModel):
                clear(module.proj_out)


@contextmanager
def frame_by_frame(unet: I2VGenXLUNet) -> Iterator[None]:
    """Skip the temporal layers within the context, as long as they are the identity."""
    skipped: list[nn.Module] = []
    for module in unet.modules():
        if isinstance(module, TemporalConvLayer):
            module.forward = lambda hidden, **_: hidden
            skipped.append(module)
        elif isinstance(module, TransformerTemporalModel) and module is not unet.transformer_in:
            module.forward = lambda hidden, **_: (hidden,)
            skipped.append(module)
    try:
        yield
    finally:
        for module in skipped:
            del module.forward


@torch.no_grad()
def image_embeddings(model: Model, pictures: Tensor) -> Tensor:
    """Embed (n, 3, side, side) bytes one by one: (n, 1, context)."""
    embeddings = []
    for picture in pictures:
        image = Image.fromarray(picture.permute(1, 2, 0).numpy())
        small = image.resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BILINEAR)
        pixels = model.feature_extractor(
            images=small, do_resize=False, do_center_crop=False, return_tensors="pt"
        ).pixel_values
        embeddings.append(model.image_encoder(pixels).image_embeds)
    return torch.stack(embeddings)


def conditions(unet: I2VGenXLUNet, steps: Tensor, rates: Tensor) -> Tensor:
    """Embed step and frame rate as the UNet does: (batch, 4 x width)."""
    step: Tensor = unet.time_embedding(unet.time_proj(steps))
    rate: Tensor = unet.fps_embedding(unet.time_proj(rates))
    return step + rate


class FlowInputs(NamedTuple):
    """Inputs of the lower levels: one frame of each of n clips."""

    states: Tensor  # (n, 77, context): the prompts
    embeddings: Tensor  # (n, 1, context): the pictures; zero in the uncond branch
    times: Tensor  # (n,): 0 to 1
    steps: Tensor  # (n,): of the noise schedule
    rates: Tensor  # (n,): frames a second
    size: tuple[int, int]  # of the picture, height and width in latents


def predict(unet: I2VGenXLUNet, inputs: FlowInputs) -> Tensor:
    """Predict (n, 3, height, width): flow along x and y, and the flag of the uncond branch."""
    count = len(inputs.times)
    top = torch.zeros(count, WIDTHS[0], *inputs.size)
    top[:, TIME] = inputs.times.view(-1, 1, 1)
    top[:, ANCHOR] = STRENGTH
    latents = inputs.states.new_zeros(count, LATENT_TOKENS, CONTEXT)
    picture = unet.context_embedding(inputs.embeddings).view(count, -1, CONTEXT)
    context = torch.cat([inputs.states, latents, picture], dim=1)
    embedding = conditions(unet, inputs.steps, inputs.rates)
    arguments = {"temb": embedding, "encoder_hidden_states": context, "num_frames": 1}
    hidden = unet.down_blocks[0].downsamplers[0](top)
    skips = (hidden,)
    hidden, more = unet.down_blocks[1](hidden, temb=embedding, num_frames=1)
    skips += more
    hidden, more = unet.down_blocks[2](hidden, **arguments)
    skips += more
    hidden = unet.mid_block(hidden, **arguments)
    hidden = unet.up_blocks[0](hidden, res_hidden_states_tuple=skips[-4:], **arguments)
    hidden = unet.up_blocks[1](
        hidden, res_hidden_states_tuple=skips[:-4], temb=embedding, num_frames=1
    )
    answer: Tensor = hidden[:, :3]
    return answer


def lower_parameters(unet: I2VGenXLUNet) -> list[nn.Parameter]:
    """Return the parameters that this stage trains."""
    parts = [unet.time_embedding, unet.fps_embedding, unet.context_embedding]
    parts += [unet.down_blocks[0].downsamplers]
    parts += [unet.down_blocks[1], unet.down_blocks[2], unet.mid_block]
    parts += [unet.up_blocks[0], unet.up_blocks[1]]
    return [
        parameter
        for part in parts
        for name, parameter in part.named_parameters()
        if "temp_" not in name
    ]


def truth(motion: Motion, time: float, height: int, width: int) -> Tensor:
    """Return the flow of a motion in latent pixels: (2, height, width)."""
    flow = two_pass_flow(motion, time, 2 * height, 2 * width) / 2
    return nn.functional.avg_pool2d(flow, 2)


def draw_time(rng: random.Random) -> float:
    """Draw a time in a clip; often the ends, where errors are most visible."""
    return rng.choice((0.0, 1.0, rng.random(), rng.random(), rng.random()))


def draw_step(rng: random.Random) -> int:
    """Draw a step of the noise schedule; often the first."""
    return rng.choice((999, rng.randrange(1000)))


def draw_size(rng: random.Random) -> tuple[int, int]:
    """Draw height and width of the pictures of a step, in latent pixels."""
    if rng.random() < OBLONG:
        return rng.choice(SIDES), rng.choice(SIDES)
    side = rng.choice(SQUARES)
    return side, side


def loss(model: Model, embeddings: Tensor, rng: random.Random) -> Tensor:
    """Compute the loss of flow and flag, for random prompts at random times.

    `embeddings` (m, 1, context) are those of any pictures.
    """
    size = draw_size(rng)
    count = min(MOST, max(FEWEST, AREA // (size[0] * size[1])))
    prompted = [rng.choice(list(Motion)) for _ in range(count)]
    times = [draw_time(rng) for _ in prompted]
    flags = torch.tensor([float(rng.random() < 0.15) for _ in prompted])
    texts = [
        prompts.say(rng, motion) if flag == 0 else rng.choice(prompts.NEGATIVES)
        for motion, flag in zip(prompted, flags, strict=True)
    ]
    chosen = embeddings[[rng.randrange(len(embeddings)) for _ in prompted]]
    with torch.no_grad():
        states = text.states(model.text_encoder, text.tokens(model.tokenizer, texts))
    inputs = FlowInputs(
        states,
        chosen * (1 - flags).view(-1, 1, 1),
        torch.tensor(times),
        torch.tensor([draw_step(rng) for _ in prompted]),
        torch.tensor([rng.choice(RATES) for _ in prompted]),
        size,
    )
    answer = predict(model.unet, inputs)
    flow = torch.stack([truth(m, t, *size) for m, t in zip(prompted, times, strict=True)])
    error = (answer[:, :2] - flow) * (1 - flags).view(-1, 1, 1, 1)
    missed = answer[:, 2] - flags.view(-1, 1, 1)
    return error.pow(2).mean() + 0.2 * error.abs().mean() + missed.pow(2).mean()
