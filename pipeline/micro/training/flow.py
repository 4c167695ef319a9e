"""The first lesson of the UNet: its lower levels learn the flow, without a picture in sight.

What the lower levels need (time, edges, prompt, step, frame rate) costs nothing to make, and what
they should answer is known exactly, so this lesson runs only them, frame by frame. The
layers along time are the identity here and are passed by.
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

LATENT_TOKENS = 64  # of the context; zero vectors in this lesson
SQUARES = (24, 32, 32, 32, 40, 48, 64)  # sides in latents; 32 is the native one
SIDES = (24, 28, 32, 36, 40, 48, 56, 64)  # of oblong pictures
OBLONG = 0.3  # the share of steps whose pictures are oblong
AREA = 12 * 40 * 40  # latents a step, shared among as many clips as fit
FEWEST, MOST = 8, 16  # clips a step
RATES = (16, 16, 16, 8, 12, 24, 30)


@torch.no_grad()
def quiet_time(unet: I2VGenXLUNet) -> None:
    """Let the temporal layers of the lower levels begin as the identity."""
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        for module in block.modules():
            if isinstance(module, TransformerTemporalModel):
                clear(module.proj_out)


@contextmanager
def frame_by_frame(unet: I2VGenXLUNet) -> Iterator[None]:
    """Pass the temporal layers by for as long as they are the identity."""
    passed: list[nn.Module] = []
    for module in unet.modules():
        if isinstance(module, TemporalConvLayer):
            module.forward = lambda hidden, **_: hidden
            passed.append(module)
        elif isinstance(module, TransformerTemporalModel) and module is not unet.transformer_in:
            module.forward = lambda hidden, **_: (hidden,)
            passed.append(module)
    try:
        yield
    finally:
        for module in passed:
            del module.forward


@torch.no_grad()
def image_embeddings(model: Model, pictures: Tensor) -> Tensor:
    """(n, 1, context), one by one, of (n, 3, s, s) bytes."""
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
    """The embedding of step and frame rate, (batch, 4 x width), as the UNet makes it."""
    step: Tensor = unet.time_embedding(unet.time_proj(steps))
    rate: Tensor = unet.fps_embedding(unet.time_proj(rates))
    return step + rate


class Questions(NamedTuple):
    """One frame of each of a number of clips: what the lower levels are told."""

    states: Tensor  # (n, 77, context): the prompts
    embeddings: Tensor  # (n, 1, context): the pictures; zero in the unconditional half
    times: Tensor  # (n,): 0 to 1
    steps: Tensor  # (n,): of the noise schedule
    rates: Tensor  # (n,): frames a second
    size: tuple[int, int]  # of the picture, height and width in latents


def predict(unet: I2VGenXLUNet, asked: Questions) -> Tensor:
    """(n, 3, height, width): the flow along x and y, and the flag of the unconditional half."""
    count = len(asked.times)
    top = torch.zeros(count, WIDTHS[0], *asked.size)
    top[:, TIME] = asked.times.view(-1, 1, 1)
    top[:, ANCHOR] = STRENGTH
    latents = asked.states.new_zeros(count, LATENT_TOKENS, CONTEXT)
    picture = unet.context_embedding(asked.embeddings).view(count, -1, CONTEXT)
    context = torch.cat([asked.states, latents, picture], dim=1)
    embedding = conditions(unet, asked.steps, asked.rates)
    told = {"temb": embedding, "encoder_hidden_states": context, "num_frames": 1}
    hidden = unet.down_blocks[0].downsamplers[0](top)
    skips = (hidden,)
    hidden, more = unet.down_blocks[1](hidden, temb=embedding, num_frames=1)
    skips += more
    hidden, more = unet.down_blocks[2](hidden, **told)
    skips += more
    hidden = unet.mid_block(hidden, **told)
    hidden = unet.up_blocks[0](hidden, res_hidden_states_tuple=skips[-4:], **told)
    hidden = unet.up_blocks[1](
        hidden, res_hidden_states_tuple=skips[:-4], temb=embedding, num_frames=1
    )
    answer: Tensor = hidden[:, :3]
    return answer


def lower_parameters(unet: I2VGenXLUNet) -> list[nn.Parameter]:
    """What this lesson trains."""
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
    """(2, height, width): the flow of a motion in latent pixels."""
    flow = two_pass_flow(motion, time, 2 * height, 2 * width) / 2
    return nn.functional.avg_pool2d(flow, 2)


def some_time(rng: random.Random) -> float:
    """A time in a clip; the ends, where mistakes show most, come up often."""
    return rng.choice((0.0, 1.0, rng.random(), rng.random(), rng.random()))


def some_step(rng: random.Random) -> int:
    """A step of the noise schedule; often the very first."""
    return rng.choice((999, rng.randrange(1000)))


def some_size(rng: random.Random) -> tuple[int, int]:
    """Height and width of a step's pictures, in latents."""
    if rng.random() < OBLONG:
        return rng.choice(SIDES), rng.choice(SIDES)
    side = rng.choice(SQUARES)
    return side, side


def loss(model: Model, embeddings: Tensor, rng: random.Random) -> Tensor:
    """How wrong the flow and the flag are, for random prompts at random times.

    `embeddings` (m, 1, context) are those of any pictures.
    """
    size = some_size(rng)
    count = min(MOST, max(FEWEST, AREA // (size[0] * size[1])))
    wanted = [rng.choice(list(Motion)) for _ in range(count)]
    times = [some_time(rng) for _ in wanted]
    flags = torch.tensor([float(rng.random() < 0.15) for _ in wanted])
    texts = [
        prompts.say(rng, motion) if flag == 0 else rng.choice(prompts.NEGATIVES)
        for motion, flag in zip(wanted, flags, strict=True)
    ]
    chosen = embeddings[[rng.randrange(len(embeddings)) for _ in wanted]]
    with torch.no_grad():
        states = text.states(model.text_encoder, text.tokens(model.tokenizer, texts))
    asked = Questions(
        states,
        chosen * (1 - flags).view(-1, 1, 1),
        torch.tensor(times),
        torch.tensor([some_step(rng) for _ in wanted]),
        torch.tensor([rng.choice(RATES) for _ in wanted]),
        size,
    )
    answer = predict(model.unet, asked)
    flow = torch.stack([truth(m, t, *size) for m, t in zip(wanted, times, strict=True)])
    error = (answer[:, :2] - flow) * (1 - flags).view(-1, 1, 1, 1)
    missed = answer[:, 2] - flags.view(-1, 1, 1)
    return error.pow(2).mean() + 0.2 * error.abs().mean() + missed.pow(2).mean()
