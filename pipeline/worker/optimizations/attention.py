"""Attention blocks in token layout (images, positions, channels), without permutes.

With channels last in memory, spatial attention over the positions of an image and temporal
attention over the frames of a position both work on views. The 1 x 1 convolutions at the ends are
matrix products. No-ops (division by 1, dropout) are left out, and residual sums are in place.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from torch import Tensor, nn
from torch.nn import functional

from pipeline.worker.memory.weights import joined_view
from pipeline.worker.monkey_patch import Patches
from pipeline.worker.optimizations import fused_ops

CFG_BRANCHES = 2
"""Branches of classifier-free guidance; caches of step invariants have one entry for each."""

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of a context, (batch, heads, tokens, width) each."""


def spatial_attention(network: nn.Module) -> Patches:
    """Patch spatial transformers to work in token layout.

    Keys and values of a context are computed once, as long as the context is the same object. They
    are shared by all images that attend to it: a context may have a row for each image, for each
    clip, or for all.
    """
    return _patch_spatial(network, _no_fused_weight)


def fused_qkv(network: nn.Module) -> Patches:
    """Patch spatial and temporal transformers: token layout, and fused QKV projections.

    Queries, keys and values are one matrix product if their weights are adjacent in memory; see
    `qkv_weights`. Like diffusers' `fuse_qkv_projections`, but without a copy of the weights.
    """
    temporal = (m for m in network.modules() if isinstance(m, TransformerTemporalModel))
    return _patch_spatial(network, _fused_weight) | {m: _make_temporal(m) for m in temporal}


def qkv_weights(network: nn.Module) -> Iterator[tuple[Tensor, ...]]:
    """Yield the Q, K and V weights of each self-attention within a transformer."""
    for module in network.modules():
        if isinstance(module, BasicTransformerBlock):
            for attention in (module.attn1, module.attn2):
                if attention is not None and not attention.is_cross_attention:
                    yield _weights(attention)


def fork_cfg_branches(module: Transformer2DModel) -> Callable[..., tuple[Tensor]]:
    """Return a forward that takes the images of one CFG branch and returns those of both.

    The branches fork at the first cross-attention, whose context has a row for each.
    """
    return _make_spatial(module, _fused_weight, branches=CFG_BRANCHES)


def geglu(network: nn.Module) -> Patches:
    """Patch GEGLU feed-forwards to multiply the gate in place."""
    found = (m for m in network.modules() if isinstance(m, FeedForward))
    return {m: _make_feed_forward(m) for m in found if isinstance(m.net[0], GEGLU)}


def _no_fused_weight(_: Attention) -> None:
    """Return None, so that queries, keys and values are three matrix products."""


def _fused_weight(attention: Attention) -> Tensor | None:
    """View the Q, K and V weights as one, or return None if they are not adjacent in memory."""
    return joined_view(_weights(attention))


WeightFusion = Callable[[Attention], Tensor | None]


def _project(attention: Attention, fused: Tensor | None, x: Tensor) -> tuple[Tensor, ...]:
    """Project (..., channels) to queries, keys and values of the same shape; they may be views."""
    if fused is None:
        return attention.to_q(x), attention.to_k(x), attention.to_v(x)
    return functional.linear(x, fused).chunk(3, dim=-1)


def _project_contiguous(
    attention: Attention, fused: Tensor | None, x: Tensor
) -> tuple[Tensor, ...]:
    """Project as `_project`, to contiguous results, which PyTorch's temporal attention needs."""
    if fused is None:
        return _project(attention, fused, x)
    weights = fused.view(3, -1, fused.shape[1]).transpose(1, 2)
    qkv = torch.bmm(x.flatten(0, -2).expand(3, -1, -1), weights)
    return qkv.view(3, *x.shape[:-1], -1).unbind()


def _weights(attention: Attention) -> tuple[Tensor, ...]:
    return attention.to_q.weight, attention.to_k.weight, attention.to_v.weight


def _patch_spatial(network: nn.Module, fusion: WeightFusion) -> dict[nn.Module, Callable[..., Any]]:
    found = (m for m in network.modules() if isinstance(m, Transformer2DModel))
    return {m: _make_spatial(m, fusion) for m in found}


def _make_key_value(module: Transformer2DModel) -> Callable[[Tensor], KeyValue]:
    attention = module.transformer_blocks[0].attn2

    @lru_cache(maxsize=CFG_BRANCHES)
    def key_value(context: Tensor) -> KeyValue:
        heads = (attention.heads, -1)
        keys = attention.to_k(context).unflatten(-1, heads).transpose(1, 2)
        values = attention.to_v(context).unflatten(-1, heads).transpose(1, 2)
        return keys, values

    return key_value


def _make_spatial(
    module: Transformer2DModel, fusion: WeightFusion, branches: int = 1
) -> Callable[..., tuple[Tensor]]:
    inner = module.transformer_blocks[0]
    key_value = _make_key_value(module)

    def forward(x: Tensor, *, encoder_hidden_states: Tensor, **_: Any) -> tuple[Tensor]:
        keys, values = key_value(encoder_hidden_states)
        y, normed = _spatial_tokens(module, fusion(inner.attn1), x, keys, values, branches)
        y += inner.ff(normed)
        del normed
        residual = torch.cat([x] * branches) if branches > 1 else x
        return (_spatial_output(module, residual, y),)

    return forward


def _spatial_tokens(
    module: Transformer2DModel,
    fused: Tensor | None,
    x: Tensor,
    keys: Tensor,
    values: Tensor,
    branches: int,
) -> tuple[Tensor, Tensor]:
    """Run self- and cross-attention on images; return tokens, and their layer normalisation."""
    inner = module.transformer_blocks[0]
    y = fused_ops.group_norm(module.norm, x).permute(0, 2, 3, 1).flatten(1, 2)
    y = functional.linear(y, module.proj_in.weight.flatten(1), module.proj_in.bias)
    attended = _self_attention(inner.attn1, fused, fused_ops.layer_norm(inner.norm1, y))
    queries = inner.attn2.to_q(fused_ops.add_layer_norm(y, attended, inner.norm2))
    del attended
    if branches > 1:
        y, queries = (torch.cat([each] * branches) for each in (y, queries))
    return y, fused_ops.add_layer_norm(
        y, _cross_attention(inner.attn2, queries, keys, values), inner.norm3
    )


def _spatial_output(module: Transformer2DModel, residual: Tensor, y: Tensor) -> Tensor:
    """Project tokens back to images and add the residual."""
    y = functional.linear(y, module.proj_out.weight.flatten(1), module.proj_out.bias)
    return residual + y.unflatten(1, residual.shape[2:]).permute(0, 3, 1, 2)  # type: ignore[no-any-return, no-untyped-call]


def _self_attention(attention: Attention, fused: Tensor | None, x: Tensor) -> Tensor:
    """Attend over the positions of (images, positions, channels)."""
    heads = (attention.heads, -1)
    queries, keys, values = (
        each.unflatten(-1, heads).transpose(1, 2)  # type: ignore[no-untyped-call]
        for each in _project(attention, fused, x)
    )
    y = functional.scaled_dot_product_attention(queries, keys, values)
    del queries, keys, values
    out: Tensor = attention.to_out[0](y.transpose(1, 2).flatten(2))
    return out


def _cross_attention(attention: Attention, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend from (images, positions, channels) to a context; each row serves several images."""
    rows = len(keys)
    q = queries.view(rows, -1, attention.heads, keys.shape[-1]).transpose(1, 2)
    y = functional.scaled_dot_product_attention(q, keys, values)
    out: Tensor = attention.to_out[0](y.transpose(1, 2).reshape(queries.shape))
    return out


def _make_temporal(module: TransformerTemporalModel) -> Callable[..., tuple[Tensor]]:
    inner = module.transformer_blocks[0]

    def forward(x: Tensor, *, num_frames: int, **_: Any) -> tuple[Tensor]:
        first, second = _fused_weight(inner.attn1), _fused_weight(inner.attn2)
        clips = x.unflatten(0, (-1, num_frames))  # type: ignore[no-untyped-call]
        y, normed = _temporal_tokens(module, first, second, clips)
        y += inner.ff(normed)
        del normed
        return (_temporal_output(module, x, y),)

    return forward


def _temporal_tokens(
    module: TransformerTemporalModel,
    first: Tensor | None,
    second: Tensor | None,
    clips: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run both temporal attentions on (clips, frames, channels, height, width).

    Returns tokens (clips, frames, positions, channels), and their layer normalisation.
    """
    inner = module.transformer_blocks[0]
    y = (
        fused_ops.group_norm(module.norm, clips.transpose(1, 2))
        .permute(0, 2, 3, 4, 1)
        .flatten(2, 3)
    )
    y = module.proj_in(y)
    attended = _temporal_self_attention(inner.attn1, first, fused_ops.layer_norm(inner.norm1, y))
    normed = fused_ops.add_layer_norm(y, attended, inner.norm2)
    del attended
    attended = _temporal_self_attention(inner.attn2, second, normed)
    del normed
    return y, fused_ops.add_layer_norm(y, attended, inner.norm3)


def _temporal_output(module: TransformerTemporalModel, residual: Tensor, y: Tensor) -> Tensor:
    """Project tokens of clips back to images and add the residual."""
    y = module.proj_out(y)
    return residual + y.flatten(0, 1).unflatten(1, residual.shape[2:]).permute(0, 3, 1, 2)  # type: ignore[no-any-return, no-untyped-call]


def _temporal_self_attention(attention: Attention, fused: Tensor | None, x: Tensor) -> Tensor:
    """Attend over the frames of (clips, frames, positions, channels)."""
    project = _project if fused_ops.enabled() else _project_contiguous
    y = fused_ops.temporal_attention(project(attention, fused, x), attention.heads)
    out: Tensor = attention.to_out[0](y)
    return out


def _make_feed_forward(module: FeedForward) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        out: Tensor = module.net[2](fused_ops.geglu(module.net[0].proj(x.flatten(0, -2))))
        return out.view(*x.shape[:-1], -1)

    return forward
