"""A plain sampling loop for training and evaluation.

It conditions the UNet as the reference pipeline does: text states of the last layer but one, the
image embedding (zeros in the unconditional half), the picture's latents followed by position marks.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.micro import text
from pipeline.micro.layout import IMAGE_SIDE, Model

FPS = 16


def to_tensor(image: Image.Image) -> Tensor:
    """(1, 3, height, width) in -1..1."""
    pixels = torch.from_numpy(np.asarray(image.convert("RGB"), np.float32))
    return pixels.permute(2, 0, 1).unsqueeze(0) / 127.5 - 1


def to_image(picture: Tensor) -> Image.Image:
    """The image of (3, height, width) in -1..1."""
    levels = ((picture + 1) * 127.5).round().clamp(0, 255).byte()
    pixels: NDArray[np.uint8] = levels.permute(1, 2, 0).numpy()
    return Image.fromarray(pixels)


def image_embedding(model: Model, image: Image.Image) -> Tensor:
    """(1, 1, context) of the picture, made square by its centre."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    small = square.resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BILINEAR)
    pixels = np.asarray(small, np.float32).transpose(2, 0, 1)[None] / 255
    features = model.feature_extractor(
        images=torch.from_numpy(pixels),
        do_normalize=True,
        do_center_crop=False,
        do_resize=False,
        do_rescale=False,
        return_tensors="pt",
    ).pixel_values
    embedding: Tensor = model.image_encoder(features).image_embeds
    return embedding.unsqueeze(1)


def with_marks(first: Tensor, times: list[float] | Tensor) -> Tensor:
    """(n, 4, frames, h, w): the picture's latents, then each later frame's time in all channels."""
    marks = torch.as_tensor(times, dtype=first.dtype)
    marks = marks.expand(len(first), -1).view(len(first), 1, -1, 1, 1)
    given = marks.expand(-1, first.shape[1], -1, *first.shape[-2:]).clone()
    given[:, :, 0] = first
    return given


@torch.no_grad()
def sample(
    model: Model,
    image: Image.Image,
    prompt: str,
    *,
    frames: int = 8,
    steps: int = 12,
    guidance: float = 1.0,
    rescale: float = 0.0,
    seed: int = 0,
    negative: str = "",
) -> Tensor:
    """The clip of an image that already has the clip's size: (frames, 3, height, width) in -1..1.

    `rescale` is how far the guided prediction's deviation is brought back to the conditional one's
    (Lin et al., "Common diffusion noise schedules and sample steps are flawed", section 3.4).
    """
    generator = torch.Generator().manual_seed(seed)
    guided = guidance > 1
    texts = [negative, prompt] if guided else [prompt]
    states = text.states(model.text_encoder, text.tokens(model.tokenizer, texts))
    embedding = image_embedding(model, image)
    if guided:
        embedding = torch.cat([torch.zeros_like(embedding), embedding])
    first = model.vae.encode(to_tensor(image)).latent_dist.sample(generator)
    first = first * model.vae.config.scaling_factor
    given = with_marks(first, [k / (frames - 1) for k in range(frames)])
    given = given.expand(len(texts), -1, -1, -1, -1)
    latents = torch.randn((1, 4, frames, *first.shape[-2:]), generator=generator)
    model.scheduler.set_timesteps(steps)
    for step in model.scheduler.timesteps:
        predicted = model.unet(
            latents.expand(len(texts), -1, -1, -1, -1),
            step,
            fps=torch.full((len(texts),), FPS),
            image_latents=given,
            image_embeddings=embedding,
            encoder_hidden_states=states,
            return_dict=False,
        )[0]
        if guided:
            without, prompted = predicted.chunk(2)
            predicted = without + guidance * (prompted - without)
            level = prompted.std() / predicted.std()
            predicted = predicted * (rescale * level + 1 - rescale)
        latents = model.scheduler.step(predicted, step, latents).prev_sample
    decoded = latents[0].transpose(0, 1) / model.vae.config.scaling_factor
    clip: Tensor = model.vae.decode(decoded).sample
    return clip.clamp(-1, 1)
