"""Conditioning of the UNet: prompt and image embeddings, image latents, frame rate.

The tests compare it with `I2VGenXLPipeline` of diffusers. Docstrings name each deliberate
difference.
"""

import hashlib
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
    """Conditions of one CFG branch. The batch dimension B is 1, or 2 after `join`."""

    text: Tensor
    """Prompt embedding: (B, tokens, cross_attention_dim)."""
    image: Tensor
    """CLIP image embedding: (B, 1, cross_attention_dim)."""
    latents: Tensor
    """Image latents, then the frame positions: (B, 4, frames, height, width)."""
    fps: Tensor
    """Frames per second: (B,)."""

    def join(self, other: "Conditions") -> "Conditions":
        """Join two branches of the same picture and frame rate to one batch, this one first."""
        return Conditions(
            torch.cat([self.text, other.text]),
            torch.cat([self.image, other.image]),
            self.latents.expand(2, -1, -1, -1, -1),
            self.fps.expand(2),
        )


def read_picture(path: Path, width: int, height: int) -> Image.Image:
    """Read the prepared PNG as RGB; resize and crop it to cover the clip's size if it differs.

    Raises SettingsRefused.
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
    """Return the prompt, and with guidance the negative prompt."""
    return [spec.prompt, spec.negative_prompt] if spec.guided else [spec.prompt]


def encode_conditions(
    model: LoadedModel,
    picture: Image.Image,
    prompts: Sequence[str],
    *,
    frames: int,
    fps: int,
    vae_tiling: bool = False,
    on_step: Callable[[], None],
) -> tuple[Conditions, Conditions | None]:
    """Return the conditions of the first prompt (cond) and of the second, if any (uncond).

    The image embedding of the uncond branch is zeros, as in training. `on_step` is called three
    times.
    """
    texts, image = embed(model, picture, prompts, on_step=on_step)
    latents = frame_positions(picture_latents(model, picture, vae_tiling=vae_tiling), frames)
    on_step()
    rate = torch.tensor([fps], device=model.device)
    cond = Conditions(texts[0], image, latents, rate)
    if len(texts) == 1:
        return cond, None
    return cond, Conditions(texts[1], torch.zeros_like(image), latents, rate)


def embed(
    model: LoadedModel,
    picture: Image.Image,
    prompts: Sequence[str],
    *,
    on_step: Callable[[], None] = lambda: None,
) -> tuple[list[Tensor], Tensor]:
    """Embed prompts and picture, or get the embeddings from the cache. Calls `on_step` twice."""
    texts = [embed_text(model, prompt) for prompt in prompts]
    on_step()
    image = embed_image(model, picture)
    on_step()
    return texts, image


def embed_text(model: LoadedModel, prompt: str) -> Tensor:
    """Embed a prompt: (1, tokens, width), penultimate layer with the final norm, as in training.

    Tokens beyond the encoder's length are truncated; pipeline/checkpoint/text_limit.py finds them.
    """
    embedding = model.embeddings.get(("text", prompt), lambda: _embed_text(model, prompt))
    return embedding.to(model.device)


def _embed_text(model: LoadedModel, prompt: str) -> Tensor:
    tokens = model.tokenizer(
        prompt,
        padding="max_length",
        max_length=model.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    with placement.encoder_on_device(model, model.text_encoder):
        layers = model.text_encoder(
            tokens.input_ids.to(model.device), output_hidden_states=True
        ).hidden_states
        embedding: Tensor = model.text_encoder.final_layer_norm(layers[-2])
    return embedding


def embed_image(model: LoadedModel, picture: Image.Image) -> Tensor:
    """Embed the central square of the picture with CLIP: (1, 1, width)."""
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


def picture_latents(
    model: LoadedModel, picture: Image.Image, *, vae_tiling: bool = False
) -> Tensor:
    """Encode the picture: (1, 4, 1, height, width), the scaled mode of the latent distribution.

    diffusers draws a sample from the global generator, so its seed does not determine the result.
    The mode is deterministic and adds no noise to the conditions. If half precision overflows, the
    picture is encoded in float32.
    """
    pixels = (2.0 * _pixels(picture) - 1.0)[None]
    with placement.vae_on_device(model, vae_tiling=vae_tiling):
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
    """Return (1, 4, frames, height, width): `first`, then constant planes n / (frames - 1)."""
    planes = [torch.full_like(first, n / (frames - 1)) for n in range(1, frames)]
    return torch.cat([first, *planes], dim=2)


def _pixels(picture: Image.Image) -> Tensor:
    """Convert to (3, height, width) float32 in 0..1."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255.0
