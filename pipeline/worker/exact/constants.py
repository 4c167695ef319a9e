"""The UNet's own forward, with what is the same at every step computed once a clip.

Of what the UNet is told only the noise and the time change from step to step. The picture's
latents, what cross-attention looks at, and the frame rate go through their networks once; the time
goes through its own as one row, whatever the number of frames. Where the two branches of guidance
are given one and the same noise, what comes before the first look at the context is done once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from pipeline.worker.exact.tokens import twofold
from pipeline.worker.slices import Forwards, standing_in

BRANCHES = 2
"""Of guidance: so many clips' constants are kept at once."""


@dataclass(frozen=True)
class Constants:
    """What is the same at every step."""

    picture: Tensor
    """(B, 4, frames, height, width): the picture's latents, as they join the noise."""
    context: Tensor
    """(B, tokens, width): what cross-attention looks at; not repeated for each frame."""
    rate: Tensor
    """(1, width): the embedding of the frame rate, which is one for all branches."""


def constants(unet: Any) -> Forwards:
    """The constants of a clip once, and each branch of guidance whole."""
    return {unet: _forward(unet, shared=False)}


def shared(unet: Any) -> Forwards:
    """The constants of a clip once, and what both branches of guidance have in common once."""
    return {unet: _forward(unet, shared=True)}


def _forward(unet: Any, *, shared: bool) -> Callable[..., tuple[Tensor]]:
    kept = lru_cache(maxsize=BRANCHES)(lambda *told: _constants(unet, *told))
    looking = (m for m in unet.down_blocks.modules() if isinstance(m, Transformer2DModel))
    doubling = {m: twofold(m) for m in islice(looking, 1 if shared else 0)}

    def forward(
        sample: Tensor,
        timestep: Tensor,
        *,
        fps: Tensor,
        image_latents: Tensor,
        image_embeddings: Tensor,
        encoder_hidden_states: Tensor,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """As I2VGenXLUNet.forward, for conditions that are the same objects at every step."""
        told = kept(fps, image_latents, image_embeddings, encoder_hidden_states)
        if doubling and same(sample) and same(image_latents):
            with standing_in(doubling):
                return (_predict(unet, sample[:1], timestep, told),)
        return (_predict(unet, sample, timestep, told),)

    return forward


def same(batch: Tensor) -> bool:
    """Whether all rows of a batch of several are one and the same memory, as `expand` leaves it."""
    return len(batch) > 1 and batch.stride(0) == 0


def _constants(unet: Any, fps: Tensor, latents: Tensor, image: Tensor, text: Tensor) -> Constants:
    clips, channels, frames, height, width = latents.shape
    seen = unet.image_latents_context_embedding(latents[:, :, 0]).flatten(2).transpose(1, 2)
    shown = unet.context_embedding(image).view(clips, -1, unet.config.cross_attention_dim)
    pictures = latents[:1] if same(latents) else latents
    x = unet.image_latents_proj_in(pictures.transpose(1, 2).flatten(0, 1))
    x = x.unflatten(0, (-1, frames)).permute(0, 3, 4, 1, 2).flatten(0, 2)
    x = unet.image_latents_temporal_encoder(x)
    picture = x.view(-1, height, width, frames, channels).permute(0, 4, 3, 1, 2).contiguous()
    return Constants(
        picture.expand(clips, *picture.shape[1:]),
        torch.cat([text, seen, shown], dim=1),
        unet.fps_embedding(unet.time_proj(fps[:1]).to(unet.dtype)),
    )


def _predict(unet: Any, sample: Tensor, time: Tensor, told: Constants) -> Tensor:
    frames = sample.shape[2]
    embedded = told.rate + unet.time_embedding(unet.time_proj(time.reshape(1)).to(sample))
    x = torch.cat([sample, told.picture[: len(sample)]], dim=1).transpose(1, 2).flatten(0, 1)
    x = unet.transformer_in(unet.conv_in(x), num_frames=frames, return_dict=False)[0]
    left = [x]
    for block in unet.down_blocks:
        x, new = block(x, temb=embedded, num_frames=frames, **_looking(block, told))
        left += new
        del new
    for n, images in enumerate(left):  # those of one branch, for as many branches as there are now
        if len(images) < len(x):
            left[n] = torch.cat([images] * (len(x) // len(images)))
        del images
    x = unet.mid_block(x, temb=embedded, num_frames=frames, encoder_hidden_states=told.context)
    for block in unet.up_blocks:
        layers = len(block.resnets)
        taken = tuple(left[-layers:])
        del left[-layers:]
        x = block(x, taken, temb=embedded, num_frames=frames, **_looking(block, told))
        del taken
    x = unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))
    return x.unflatten(0, (-1, frames)).transpose(1, 2)  # type: ignore[no-any-return]


def _looking(block: nn.Module, told: Constants) -> dict[str, Tensor]:
    looks = getattr(block, "has_cross_attention", False)
    return {"encoder_hidden_states": told.context} if looks else {}
