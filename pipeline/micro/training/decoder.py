"""Last training stage: the VAE decoder learns to sharpen what the UNet renders along a flow.

The mechanism that moves the latents interpolates linearly, and repeats the edge of the picture
where new content would appear. Here it gets the true flow, and the decoder learns to make sharp
pictures of its output. The lower levels of the UNet do not run, and temporal layers are skipped.
"""

import random

import torch
from diffusers import I2VGenXLUNet
from torch import Tensor

from pipeline.micro.training import motions
from pipeline.micro.training.flow import RATES, conditions, draw_time, truth
from pipeline.micro.training.layout import Model
from pipeline.micro.training.motions import Motion
from pipeline.micro.training.unet import WIDTHS, fit_norms, with_marks
from pipeline.micro.training.vae import Filters

SIDES = (48, 64, 64, 80)  # in pixels
UNSEEN = 0.2  # weight of errors where the first frame did not show the content
LAST_STEPS = (20, 120)  # of the noise schedule, where sampling ends and the decoder takes over
CLIPS = 4
FRAMES = 3
SHARPNESS = 0.04  # the weight of a frame's gradient energy in the loss
INTERPOLATED = (Motion.ZOOM_IN, Motion.ZOOM_OUT, Motion.CLOCKWISE, Motion.COUNTERCLOCKWISE)
DRAWN = (*Motion, *INTERPOLATED)  # twice as often the motions that interpolate


@torch.no_grad()
def render(
    unet: I2VGenXLUNet, noisy: Tensor, given: Tensor, flow: Tensor, embedding: Tensor
) -> Tensor:
    """Predict clips (n, 4, frames, h, w) that move along a flow (n x frames, 2, h, w)."""
    count, _, frames, height, width = noisy.shape
    entering = torch.cat([noisy, given], dim=1).transpose(1, 2).flatten(0, 1)
    entering = unet.transformer_in(unet.conv_in(entering), num_frames=frames)[0]
    lower = flow.new_zeros(count * frames, WIDTHS[1], height, width)
    lower[:, :2] = flow
    hidden = unet.up_blocks[-1](
        lower,
        res_hidden_states_tuple=(entering,) * 4,
        temb=embedding.repeat_interleave(frames, dim=0),
        num_frames=frames,
    )
    hidden = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))
    rendered: Tensor = hidden.unflatten(0, (count, frames)).transpose(1, 2)
    return rendered


@torch.no_grad()
def calibrate(unet: I2VGenXLUNet, filters: Filters, bank: Tensor) -> None:
    """Fit the norms of the copy path to a few clips that move along the true flow."""
    side, frames = 64, 8
    prompted = (Motion.PAN_RIGHT, Motion.ZOOM_OUT, Motion.CLOCKWISE, Motion.TILT_UP)
    times = [k / (frames - 1) for k in range(frames)]
    firsts = bank[: len(prompted), :, :side, :side].float() / 127.5 - 1
    given = with_marks(filters(firsts), times)
    noise = torch.randn(given.shape, generator=torch.Generator().manual_seed(0))
    flow = torch.stack([truth(m, time, *given.shape[-2:]) for m in prompted for time in times])
    steps, rates = torch.full((len(prompted),), 700), torch.full((len(prompted),), RATES[0])
    embedding = conditions(unet, steps, rates)
    fit_norms(unet, lambda: render(unet, noise, given, flow, embedding))


def window(rng: random.Random, picture: Tensor, side: int) -> tuple[tuple[float, float], float]:
    """Draw centre and scale of a window on a picture, with a margin for the motion."""
    scale = rng.uniform(0.8, picture.shape[-1] / (1.25 * side))
    margin = max(0.0, picture.shape[-1] / 2 - 0.6 * scale * side)
    middle = (picture.shape[-1] - 1) / 2
    centre = (middle + rng.uniform(-margin, margin), middle + rng.uniform(-margin, margin))
    return centre, scale


def loss(model: Model, filters: Filters, bank: Tensor, rng: random.Random) -> Tensor:
    """Compute the loss of rendered and decoded frames. `bank` is (n, 3, side, side) bytes."""
    side = rng.choice(SIDES)
    pictures, flows, masks, marks = [], [], [], []
    for _ in range(CLIPS):
        motion = rng.choice(DRAWN)
        times = [0.0, draw_time(rng), rng.choice((1.0, rng.random()))]
        picture = bank[rng.randrange(len(bank))].float() / 127.5 - 1
        if rng.random() < 0.5:
            picture = picture.transpose(1, 2)
        centre, scale = window(rng, picture, side)
        pictures.append(motions.clip(picture, motion, times, side, side, centre, scale))
        flows += [truth(motion, time, side // 2, side // 2) for time in times]
        masks += [motions.visible(motion, time, side, side) for time in times]
        marks.append(times)
    true = torch.cat(pictures)
    with torch.no_grad():
        latents = filters(true).unflatten(0, (CLIPS, FRAMES)).transpose(1, 2)
        steps = torch.tensor([rng.randint(*LAST_STEPS) for _ in range(CLIPS)])
        kept = model.scheduler.alphas_cumprod[steps].clamp(0, 1).view(-1, 1, 1, 1, 1)
        noisy = kept.sqrt() * latents + (1 - kept).sqrt() * torch.randn_like(latents)
        rates = torch.tensor([rng.choice(RATES) for _ in range(CLIPS)])
        embedding = conditions(model.unet, steps, rates)
        flow = torch.stack(flows) * (1 + 0.02 * torch.randn(CLIPS * FRAMES, 1, 1, 1))
        given = with_marks(latents[:, :, 0], torch.tensor(marks))
    rendered = render(model.unet, noisy, given, flow, embedding)
    decoded = model.vae.decode(rendered.transpose(1, 2).flatten(0, 1)).sample
    weight = torch.stack(masks).unsqueeze(1).float() * (1 - UNSEEN) + UNSEEN
    return picture_loss(decoded, true, weight)


def picture_loss(made: Tensor, true: Tensor, weight: Tensor) -> Tensor:
    """Compute the loss of pixels, their gradients, and the sharpness of each frame.

    With the first two terms only, the decoder blurs uncertain content.
    """
    error = (made - true) * weight
    across, down = error.diff(dim=-1), error.diff(dim=-2)
    sharpness = torch.log(energy(made * weight) / energy(true * weight))
    pixels = 3 * error.pow(2).mean()
    edges = 0.5 * (across.abs().mean() + down.abs().mean())
    return pixels + edges + SHARPNESS * sharpness.pow(2).mean()


def energy(frames: Tensor) -> Tensor:
    """Return (n,): the mean square of the differences between neighbouring pixels."""
    across = frames.diff(dim=-1).pow(2).flatten(1).mean(dim=1)
    down = frames.diff(dim=-2).pow(2).flatten(1).mean(dim=1)
    return across + down + 1e-4
