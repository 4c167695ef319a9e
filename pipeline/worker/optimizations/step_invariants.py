"""The UNet's own forward, with what is the same at every step computed once a clip.

Of what the UNet is told only the noise and the time change from step to step. The picture's
latents, what cross-attention looks at, and the frame rate go through their networks once; the time
goes through its own as one row, whatever the number of frames. Where the two branches of guidance
are given one and the same noise, what comes before the first look at the context is done once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from typing import Any

import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from pipeline.worker.optimizations import fused_ops
from pipeline.worker.optimizations.attention import CFG_BRANCHES, fork_cfg_branches
from pipeline.worker.patch import Patches, patched

FeatureCache = dict[Tensor, Tensor]
"""By what cross-attention is told, what the deeper levels gave for it: (n, channels, height, width)
for all images, as it enters the last block."""


@dataclass(frozen=True)
class StepInvariants:
    """What is the same at every step."""

    picture: Tensor
    """(B, 4, frames, height, width): the picture's latents, as they join the noise."""
    context: Tensor
    """(B, tokens, width): what cross-attention looks at; not repeated for each frame."""
    rate: Tensor
    """(1, width): the embedding of the frame rate, which is one for all branches."""


def compute_invariants(unet: Any) -> Patches:
    """The constants of a clip once, and each branch of guidance whole."""
    return {unet: _forward(unet, shared=False)}


def shared_cfg(unet: Any) -> Patches:
    """The constants of a clip once, and what both branches of guidance have in common once."""
    return {unet: _forward(unet, shared=True)}


def _forward(unet: Any, *, shared: bool) -> Callable[..., tuple[Tensor]]:
    kept = lru_cache(maxsize=CFG_BRANCHES)(lambda *told: _constants(unet, *told))
    looking = (m for m in unet.down_blocks.modules() if isinstance(m, Transformer2DModel))
    doubling = {m: fork_cfg_branches(m) for m in islice(looking, 1 if shared else 0)}

    def forward(
        sample: Tensor,
        timestep: Tensor,
        *,
        fps: Tensor,
        image_latents: Tensor,
        image_embeddings: Tensor,
        encoder_hidden_states: Tensor,
        return_dict: bool = False,
        deep: FeatureCache | None = None,
    ) -> tuple[Tensor]:
        """As I2VGenXLUNet.forward, for conditions that are the same objects at every step.

        What `deep` has for these conditions is taken; where it has nothing, it gets what was made.
        """
        told = kept(fps, image_latents, image_embeddings, encoder_hidden_states)
        below = partial(_deeper, unet, told)
        if deep is not None:
            below = partial(_once, deep, encoder_hidden_states, below)
        if doubling and same(sample) and same(image_latents):
            with patched(doubling):
                return (_predict(unet, sample[:1], timestep, told, below),)
        return (_predict(unet, sample, timestep, told, below),)

    return forward


def same(batch: Tensor) -> bool:
    """Whether all rows of a batch of several are one and the same memory, as `expand` leaves it."""
    return len(batch) > 1 and batch.stride(0) == 0


def _constants(
    unet: Any, fps: Tensor, latents: Tensor, image: Tensor, text: Tensor
) -> StepInvariants:
    clips, channels, frames, height, width = latents.shape
    seen = unet.image_latents_context_embedding(latents[:, :, 0]).flatten(2).transpose(1, 2)
    shown = unet.context_embedding(image).view(clips, -1, unet.config.cross_attention_dim)
    pictures = latents[:1] if same(latents) else latents
    x = unet.image_latents_proj_in(pictures.transpose(1, 2).flatten(0, 1))
    x = x.unflatten(0, (-1, frames)).permute(0, 3, 4, 1, 2).flatten(0, 2)
    x = unet.image_latents_temporal_encoder(x)
    picture = x.view(-1, height, width, frames, channels).permute(0, 4, 3, 1, 2).contiguous()
    return StepInvariants(
        picture.expand(clips, *picture.shape[1:]),
        torch.cat([text, seen, shown], dim=1),
        unet.fps_embedding(unet.time_proj(fps[:1]).to(unet.dtype)),
    )


Below = Callable[[list[Tensor], Tensor, int], Tensor]
"""What enters the last block. It takes off a list what the first block leaves for what is below,
the last of which enters there; and it is given the embedded time and the number of frames."""


def _predict(unet: Any, sample: Tensor, time: Tensor, told: StepInvariants, below: Below) -> Tensor:
    frames = sample.shape[2]
    embedded = told.rate + unet.time_embedding(unet.time_proj(time.reshape(1)).to(sample))
    x = torch.cat([sample, told.picture[: len(sample)]], dim=1).transpose(1, 2).flatten(0, 1)
    left = [unet.transformer_in(unet.conv_in(x), num_frames=frames, return_dict=False)[0]]
    del x
    _down(unet.down_blocks[0], left, embedded, frames, told)
    x = below(left, embedded, frames)
    x = _up(unet.up_blocks[-1], x, left, embedded, frames, told)
    x = unet.conv_out(fused_ops.group_norm_silu(unet.conv_norm_out, x))
    return x.unflatten(0, (-1, frames)).transpose(1, 2)  # type: ignore[no-any-return]


def _deeper(
    unet: Any, told: StepInvariants, left: list[Tensor], embedded: Tensor, frames: int
) -> Tensor:
    for block in unet.down_blocks[1:]:
        _down(block, left, embedded, frames, told)
    x = unet.mid_block(
        left[-1], temb=embedded, num_frames=frames, encoder_hidden_states=told.context
    )
    for block in unet.up_blocks[:-1]:
        x = _up(block, x, left, embedded, frames, told)
    return x  # type: ignore[no-any-return]


def _once(
    deep: FeatureCache,
    context: Tensor,
    below: Below,
    left: list[Tensor],
    embedded: Tensor,
    frames: int,
) -> Tensor:
    if context in deep:
        left.pop()
    else:
        deep[context] = below(left, embedded, frames)
    return deep[context]


def _down(
    block: Any, left: list[Tensor], embedded: Tensor, frames: int, told: StepInvariants
) -> None:
    left += block(left[-1], temb=embedded, num_frames=frames, **_looking(block, told))[1]


def _up(
    block: Any, x: Tensor, left: list[Tensor], embedded: Tensor, frames: int, told: StepInvariants
) -> Tensor:
    layers = len(block.resnets)
    taken = left[-layers:]
    del left[-layers:]
    for n, images in enumerate(taken):  # those of one branch, for as many as there are now
        if len(images) < len(x):
            taken[n] = torch.cat([images] * (len(x) // len(images)))
        del images
    result: Tensor = block(
        x, tuple(taken), temb=embedded, num_frames=frames, **_looking(block, told)
    )
    return result


def _looking(block: nn.Module, told: StepInvariants) -> dict[str, Tensor]:
    looks = getattr(block, "has_cross_attention", False)
    return {"encoder_hidden_states": told.context} if looks else {}
