"""What the UNet is told of a clip beside the noise: prompt, picture, frame rate.

Held against `I2VGenXLPipeline` of diffusers in the tests; where we differ on purpose, it says so.
"""

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pipeline.request.spec import Spec
from pipeline.worker import placement
from pipeline.worker.errors import SettingsRefused, first_line
from pipeline.worker.model.loader import LoadedModel


@dataclass(frozen=True)
class Conditions:
    """One branch of guidance. The batch dimension B is 1, or 2 after `join`."""

    text: Tensor
    """(B, tokens, width of cross-attention)"""
    image: Tensor
    """(B, 1, width of cross-attention)"""
    latents: Tensor
    """(B, 4, frames, height, width): the picture's latents, then each frame's place in the clip."""
    fps: Tensor
    """(B,)"""

    def join(self, other: "Conditions") -> "Conditions":
        """Both branches as one batch, this one first, for one picture and one frame rate."""
        return Conditions(
            torch.cat([self.text, other.text]),
            torch.cat([self.image, other.image]),
            self.latents.expand(2, -1, -1, -1, -1),
            self.fps.expand(2),
        )


def read_picture(path: Path, width: int, height: int) -> Image.Image:
    """The clean PNG as RGB in the clip's size: untouched if it has it, else covered and cropped.

    Raises Refused.
    """
    try:
        with Image.open(path, formats=["PNG"]) as png:
            picture = png.convert("RGB")
    except OSError as error:
        raise SettingsRefused(f"the prepared picture cannot be read: {first_line(error)}") from None
    if picture.size == (width, height):
        return picture
    return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)


def prompts_of(spec: Spec) -> list[str]:
    """The prompt, and with guidance the one that it leads away from."""
    return [spec.prompt, spec.negative_prompt] if spec.guided else [spec.prompt]


def encode_conditions(
    model: LoadedModel,
    picture: Image.Image,
    prompts: Sequence[str],
    *,
    frames: int,
    fps: int,
    striped: bool = False,
    on_step: Callable[[], None],
) -> tuple[Conditions, Conditions | None]:
    """The branch of the first prompt, and of the second, if there is one.

    In the second the image embedding is zeros, as the model was trained. With `striped` the VAE
    works on stripes of the picture. `on_step` is called three times.
    """
    texts, image = embed(model, picture, prompts, on_step=on_step)
    latents = frame_positions(picture_latents(model, picture, striped=striped), frames)
    on_step()
    rate = torch.tensor([fps], device=model.device)
    wanted = Conditions(texts[0], image, latents, rate)
    if len(texts) == 1:
        return wanted, None
    return wanted, Conditions(texts[1], torch.zeros_like(image), latents, rate)


def embed(
    model: LoadedModel,
    picture: Image.Image,
    prompts: Sequence[str],
    *,
    on_step: Callable[[], None] = lambda: None,
) -> tuple[list[Tensor], Tensor]:
    """What the encoders make of prompts and picture. `on_step` is called twice."""
    texts = [embed_text(model, prompt) for prompt in prompts]
    on_step()
    image = embed_image(model, picture)
    on_step()
    return texts, image


def embed_text(model: LoadedModel, prompt: str) -> Tensor:
    """(1, tokens, width): the last layer but one, with the final norm, as the model was trained.

    What goes beyond the encoder's length is dropped, with a line in the log.
    """
    kept = model.embeddings.get(("text", prompt), lambda: _embed_text(model, prompt))
    return kept.to(model.device)


def _embed_text(model: LoadedModel, prompt: str) -> Tensor:
    length = model.tokenizer.model_max_length
    every = model.tokenizer(prompt, truncation=False).input_ids
    if len(every) > length:
        lost = model.tokenizer.decode(every[length - 1 : -1])
        print(f"the prompt is longer than {length} tokens; dropped: {lost!r}", file=sys.stderr)
    tokens = model.tokenizer(
        prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    with placement.encoder_on_device(model, model.text_encoder):
        layers = model.text_encoder(
            tokens.input_ids.to(model.device), output_hidden_states=True
        ).hidden_states
        embedding: Tensor = model.text_encoder.final_layer_norm(layers[-2])
    return embedding


def embed_image(model: LoadedModel, picture: Image.Image) -> Tensor:
    """(1, 1, width): CLIP's embedding of the picture's middle square."""
    digest = hashlib.sha256(picture.tobytes()).hexdigest()
    key = ("picture", picture.width, digest)
    return model.embeddings.get(key, lambda: _embed_image(model, picture)).to(model.device)


def _embed_image(model: LoadedModel, picture: Image.Image) -> Tensor:
    size = model.image_processor["crop_size"]
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.resize(
        (size["width"], size["height"]),
        Image.Resampling.BILINEAR,
        box=(left, top, left + side, top + side),
    )
    mean, deviation = (
        torch.tensor(model.image_processor[k])[:, None, None] for k in _NORMALISATION
    )
    pixels = ((_pixels(square) - mean) / deviation)[None]
    with placement.encoder_on_device(model, model.image_encoder):
        embedding: Tensor = model.image_encoder(pixels.to(model.device, model.dtype)).image_embeds
    return embedding[:, None]


_NORMALISATION = ("image_mean", "image_std")


def picture_latents(model: LoadedModel, picture: Image.Image, *, striped: bool = False) -> Tensor:
    """(1, 4, 1, height, width): the mode of the picture's latent distribution, scaled.

    The reference draws a sample, from the global generator, so that its seed does not fix the
    result. The mode needs no draw and puts no noise into what every frame is shown.
    """
    pixels = (2.0 * _pixels(picture) - 1.0)[None]
    with placement.vae_on_device(model, striped=striped):
        latents = _vae_mode(model, pixels, model.dtype)
        if not torch.isfinite(latents).all():
            latents = _vae_mode(model, pixels, torch.float32)
    scaled: Tensor = latents * model.vae.config.scaling_factor
    return scaled.to(model.dtype)[:, :, None]


def _vae_mode(model: LoadedModel, pixels: Tensor, dtype: torch.dtype) -> Tensor:
    model.weights.load(model.vae, dtype)
    mode: Tensor = model.vae.encode(pixels.to(model.device, dtype)).latent_dist.mode()
    return mode


def frame_positions(first: Tensor, frames: int) -> Tensor:
    """(1, 4, frames, height, width): `first`, then planes that say how far along each frame is."""
    places = [torch.full_like(first, n / (frames - 1)) for n in range(1, frames)]
    return torch.cat([first, *places], dim=2)


def _pixels(picture: Image.Image) -> Tensor:
    """(3, height, width) float32 in 0..1."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255.0
