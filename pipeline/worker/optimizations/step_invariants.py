"""UNet forward that computes step invariants once a clip, and the feature cache.

Only the noisy latents and the timestep change from step to step. The image latents, the context of
cross-attention and the frame rate are embedded once. The timestep is embedded as one row, whatever
the number of frames. If both CFG branches get the same latents, the layers before the first
cross-attention run once for both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from typing import Any

import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from pipeline.worker.monkey_patch import Patches, patched
from pipeline.worker.optimizations import fused_ops
from pipeline.worker.optimizations.attention import CFG_BRANCHES, fork_cfg_branches

FeatureCache = dict[Tensor, Tensor]
"""Feature cache (DeepCache, Ma et al. 2024): the input of the last up block, by prompt embedding.

Keys are the `encoder_hidden_states` of a forward. Values are (images, channels, height, width).
"""


@dataclass(frozen=True)
class StepInvariants:
    """Embeddings that are the same at every denoising step of a clip."""

    image_latents: Tensor
    """(batch, 4, frames, height, width): projected, as concatenated to the noisy latents."""
    context: Tensor
    """(batch, tokens, width): for cross-attention; not repeated for each frame."""
    fps_embedding: Tensor
    """(1, width): one row for all CFG branches."""


def compute_invariants(unet: Any) -> Patches:
    """Patch the UNet to compute its step invariants once a clip."""
    return {unet: _make_forward(unet, shared_cfg=False)}


def shared_cfg(unet: Any) -> Patches:
    """Patch the UNet as `compute_invariants` does, and share the first layers of both CFG branches.

    The branches are identical up to the first cross-attention.
    """
    return {unet: _make_forward(unet, shared_cfg=True)}


def _make_forward(unet: Any, *, shared_cfg: bool) -> Callable[..., tuple[Tensor]]:
    invariants_of = lru_cache(maxsize=CFG_BRANCHES)(lambda *inputs: _invariants(unet, *inputs))
    cross_attending = (m for m in unet.down_blocks.modules() if isinstance(m, Transformer2DModel))
    forks = {m: fork_cfg_branches(m) for m in islice(cross_attending, 1 if shared_cfg else 0)}

    def forward(
        sample: Tensor,
        timestep: Tensor,
        *,
        fps: Tensor,
        image_latents: Tensor,
        image_embeddings: Tensor,
        encoder_hidden_states: Tensor,
        return_dict: bool = False,
        feature_cache: FeatureCache | None = None,
    ) -> tuple[Tensor]:
        """Predict as I2VGenXLUNet.forward; the conditions must be the same objects at every step.

        With `feature_cache` the inner blocks are skipped if it has an entry for these conditions;
        otherwise they run and their output is added to it.
        """
        invariants = invariants_of(fps, image_latents, image_embeddings, encoder_hidden_states)
        inner = partial(_run_inner_blocks, unet, invariants)
        if feature_cache is not None:
            inner = partial(_cached_features, feature_cache, encoder_hidden_states, inner)
        if forks and is_expanded(sample) and is_expanded(image_latents):
            with patched(forks):
                return (_predict(unet, sample[:1], timestep, invariants, inner),)
        return (_predict(unet, sample, timestep, invariants, inner),)

    return forward


def is_expanded(batch: Tensor) -> bool:
    """Return True if all rows of a batch of several share one memory, as `Tensor.expand` makes."""
    return len(batch) > 1 and batch.stride(0) == 0


def _invariants(
    unet: Any, fps: Tensor, latents: Tensor, image: Tensor, text: Tensor
) -> StepInvariants:
    clips, channels, frames, height, width = latents.shape
    latent_tokens = unet.image_latents_context_embedding(latents[:, :, 0])
    latent_tokens = latent_tokens.flatten(2).transpose(1, 2)
    image_tokens = unet.context_embedding(image).view(clips, -1, unet.config.cross_attention_dim)
    distinct = latents[:1] if is_expanded(latents) else latents
    x = unet.image_latents_proj_in(distinct.transpose(1, 2).flatten(0, 1))
    x = x.unflatten(0, (-1, frames)).permute(0, 3, 4, 1, 2).flatten(0, 2)
    x = unet.image_latents_temporal_encoder(x)
    projected = x.view(-1, height, width, frames, channels).permute(0, 4, 3, 1, 2).contiguous()
    return StepInvariants(
        projected.expand(clips, *projected.shape[1:]),
        torch.cat([text, latent_tokens, image_tokens], dim=1),
        unet.fps_embedding(unet.time_proj(fps[:1]).to(unet.dtype)),
    )


InnerBlocks = Callable[[list[Tensor], Tensor, int], Tensor]
"""(skip connections, time embedding, frames) -> input of the last up block.

The skip connections of the first down block come in; those of the inner blocks are consumed.
"""


def _predict(
    unet: Any, sample: Tensor, time: Tensor, invariants: StepInvariants, inner: InnerBlocks
) -> Tensor:
    frames = sample.shape[2]
    temb = invariants.fps_embedding + unet.time_embedding(
        unet.time_proj(time.reshape(1)).to(sample)
    )
    x = torch.cat([sample, invariants.image_latents[: len(sample)]], dim=1)
    x = x.transpose(1, 2).flatten(0, 1)
    skips = [unet.transformer_in(unet.conv_in(x), num_frames=frames, return_dict=False)[0]]
    del x
    _run_down_block(unet.down_blocks[0], skips, temb, frames, invariants)
    x = inner(skips, temb, frames)
    x = _run_up_block(unet.up_blocks[-1], x, skips, temb, frames, invariants)
    x = unet.conv_out(fused_ops.group_norm_silu(unet.conv_norm_out, x))
    return x.unflatten(0, (-1, frames)).transpose(1, 2)  # type: ignore[no-any-return]


def _run_inner_blocks(
    unet: Any, invariants: StepInvariants, skips: list[Tensor], temb: Tensor, frames: int
) -> Tensor:
    for block in unet.down_blocks[1:]:
        _run_down_block(block, skips, temb, frames, invariants)
    x = unet.mid_block(
        skips[-1], temb=temb, num_frames=frames, encoder_hidden_states=invariants.context
    )
    for block in unet.up_blocks[:-1]:
        x = _run_up_block(block, x, skips, temb, frames, invariants)
    return x  # type: ignore[no-any-return]


def _cached_features(
    feature_cache: FeatureCache,
    context: Tensor,
    inner: InnerBlocks,
    skips: list[Tensor],
    temb: Tensor,
    frames: int,
) -> Tensor:
    if context in feature_cache:
        skips.pop()
    else:
        feature_cache[context] = inner(skips, temb, frames)
    return feature_cache[context]


def _run_down_block(
    block: Any, skips: list[Tensor], temb: Tensor, frames: int, invariants: StepInvariants
) -> None:
    context = _context_argument(block, invariants)
    skips += block(skips[-1], temb=temb, num_frames=frames, **context)[1]


def _run_up_block(
    block: Any,
    x: Tensor,
    skips: list[Tensor],
    temb: Tensor,
    frames: int,
    invariants: StepInvariants,
) -> Tensor:
    layers = len(block.resnets)
    consumed = skips[-layers:]
    del skips[-layers:]
    for n, images in enumerate(consumed):  # from before the fork there is one CFG branch only
        if len(images) < len(x):
            consumed[n] = torch.cat([images] * (len(x) // len(images)))
        del images
    context = _context_argument(block, invariants)
    result: Tensor = block(x, tuple(consumed), temb=temb, num_frames=frames, **context)
    return result


def _context_argument(block: nn.Module, invariants: StepInvariants) -> dict[str, Tensor]:
    cross_attends = getattr(block, "has_cross_attention", False)
    return {"encoder_hidden_states": invariants.context} if cross_attends else {}
