"""Transformers over tokens (images, places, channels), as the attention and the products want them.

With channels last in memory no permutation costs anything: spatial attention is over the places of
an image, temporal attention over the images of a place, both on views. The 1 x 1 convolutions at
the ends are products. What does not change (division by 1, dropout) is left out, and sums are
made in place.
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
from pipeline.worker.optimizations import fused_ops
from pipeline.worker.patch import Patches

CFG_BRANCHES = 2
"""Of guidance: for so many contexts, or clips, is kept what is the same at every step."""

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of a context, (B, heads, tokens, width) each."""


def spatial_attention(network: nn.Module) -> Patches:
    """Spatial transformers on tokens.

    The keys and values of a context are made once, as long as it is the same object, and once for
    all images that look at it: it may have a row for each image, for each clip, or for all.
    """
    return _spatials(network, _apart)


def fused_qkv(network: nn.Module) -> Patches:
    """Spatial and temporal transformers on tokens, with queries, keys and values in one product.

    Where their weights lie one after the other in memory, as `projections` asks for.
    """
    temporal = (m for m in network.modules() if isinstance(m, TransformerTemporalModel))
    return _spatials(network, _joined) | {m: _temporal(m) for m in temporal}


def qkv_weights(network: nn.Module) -> Iterator[tuple[Tensor, ...]]:
    """The weights of queries, keys and values of each self-attention within a transformer."""
    for module in network.modules():
        if isinstance(module, BasicTransformerBlock):
            for attention in (module.attn1, module.attn2):
                if attention is not None and not attention.is_cross_attention:
                    yield _weights(attention)


def fork_cfg_branches(module: Transformer2DModel) -> Callable[..., tuple[Tensor]]:
    """A forward that gets what two branches of guidance have in common, and gives both.

    They part at the first look at the context, which has a row for each.
    """
    return _spatial(module, _joined, branches=CFG_BRANCHES)


def geglu(network: nn.Module) -> Patches:
    """Feed-forwards with a gate, which is multiplied in place."""
    found = (m for m in network.modules() if isinstance(m, FeedForward))
    return {m: _rows(m) for m in found if isinstance(m.net[0], GEGLU)}


def _apart(_: Attention) -> None:
    """Queries, keys and values are three products."""


def _joined(attention: Attention) -> Tensor | None:
    """The weights of all three as one, where they lie so."""
    return joined_view(_weights(attention))


Whole = Callable[[Attention], Tensor | None]


def _project(attention: Attention, whole: Tensor | None, x: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values of (..., channels), each of the same shape."""
    if whole is None:
        return attention.to_q(x), attention.to_k(x), attention.to_v(x)
    return functional.linear(x, whole).chunk(3, dim=-1)


def _project_apart(attention: Attention, whole: Tensor | None, x: Tensor) -> tuple[Tensor, ...]:
    """The same, each result whole in memory, as temporal attention wants it."""
    if whole is None:
        return _project(attention, whole, x)
    three = whole.view(3, -1, whole.shape[1]).transpose(1, 2)
    found = torch.bmm(x.flatten(0, -2).expand(3, -1, -1), three)
    return found.view(3, *x.shape[:-1], -1).unbind()


def _weights(attention: Attention) -> tuple[Tensor, ...]:
    return attention.to_q.weight, attention.to_k.weight, attention.to_v.weight


def _spatials(network: nn.Module, whole: Whole) -> dict[nn.Module, Callable[..., Any]]:
    found = (m for m in network.modules() if isinstance(m, Transformer2DModel))
    return {m: _spatial(m, whole) for m in found}


def _looked(module: Transformer2DModel) -> Callable[[Tensor], KeyValue]:
    attention = module.transformer_blocks[0].attn2

    @lru_cache(maxsize=CFG_BRANCHES)
    def looked(context: Tensor) -> KeyValue:
        heads = (attention.heads, -1)
        keys = attention.to_k(context).unflatten(-1, heads).transpose(1, 2)
        values = attention.to_v(context).unflatten(-1, heads).transpose(1, 2)
        return keys, values

    return looked


def _spatial(
    module: Transformer2DModel, whole: Whole, branches: int = 1
) -> Callable[..., tuple[Tensor]]:
    inner = module.transformer_blocks[0]
    looked = _looked(module)

    def forward(x: Tensor, *, encoder_hidden_states: Tensor, **_: Any) -> tuple[Tensor]:
        keys, values = looked(encoder_hidden_states)
        y, normed = _attended(module, whole(inner.attn1), x, keys, values, branches)
        y += inner.ff(normed)
        del normed
        return (_shown(module, torch.cat([x] * branches) if branches > 1 else x, y),)

    return forward


def _attended(
    module: Transformer2DModel,
    whole: Tensor | None,
    x: Tensor,
    keys: Tensor,
    values: Tensor,
    branches: int,
) -> tuple[Tensor, Tensor]:
    """Images to tokens that have attended to each other and to the context; and those normed."""
    inner = module.transformer_blocks[0]
    y = fused_ops.group_norm(module.norm, x).permute(0, 2, 3, 1).flatten(1, 2)
    y = functional.linear(y, module.proj_in.weight.flatten(1), module.proj_in.bias)
    seen = _attend(inner.attn1, whole, fused_ops.layer_norm(inner.norm1, y))
    queries = inner.attn2.to_q(fused_ops.add_layer_norm(y, seen, inner.norm2))
    del seen
    if branches > 1:
        y, queries = (torch.cat([each] * branches) for each in (y, queries))
    return y, fused_ops.add_layer_norm(
        y, _cross_attention(inner.attn2, queries, keys, values), inner.norm3
    )


def _shown(module: Transformer2DModel, x: Tensor, y: Tensor) -> Tensor:
    """Tokens back to images, added to what there was."""
    y = functional.linear(y, module.proj_out.weight.flatten(1), module.proj_out.bias)
    return x + y.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)  # type: ignore[no-any-return, no-untyped-call]


def _attend(attention: Attention, whole: Tensor | None, x: Tensor) -> Tensor:
    """Self-attention over the places of (images, places, channels)."""
    heads = (attention.heads, -1)
    queries, keys, values = (
        each.unflatten(-1, heads).transpose(1, 2)  # type: ignore[no-untyped-call]
        for each in _project(attention, whole, x)
    )
    y = functional.scaled_dot_product_attention(queries, keys, values)
    del queries, keys, values
    out: Tensor = attention.to_out[0](y.transpose(1, 2).flatten(2))
    return out


def _cross_attention(attention: Attention, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Cross-attention of (images, places, channels); a row of the context is for several images."""
    rows = len(keys)
    q = queries.view(rows, -1, attention.heads, keys.shape[-1]).transpose(1, 2)
    y = functional.scaled_dot_product_attention(q, keys, values)
    out: Tensor = attention.to_out[0](y.transpose(1, 2).reshape(queries.shape))
    return out


def _temporal(module: TransformerTemporalModel) -> Callable[..., tuple[Tensor]]:
    inner = module.transformer_blocks[0]

    def forward(x: Tensor, *, num_frames: int, **_: Any) -> tuple[Tensor]:
        first, second = _joined(inner.attn1), _joined(inner.attn2)
        clips = x.unflatten(0, (-1, num_frames))  # type: ignore[no-untyped-call]
        y, normed = _attended_over_time(module, first, second, clips)
        y += inner.ff(normed)
        del normed
        return (_shown_over_time(module, x, y),)

    return forward


def _attended_over_time(
    module: TransformerTemporalModel,
    first: Tensor | None,
    second: Tensor | None,
    clips: Tensor,
) -> tuple[Tensor, Tensor]:
    """(clips, frames, ...) to tokens that have attended over time; and those normed."""
    inner = module.transformer_blocks[0]
    y = (
        fused_ops.group_norm(module.norm, clips.transpose(1, 2))
        .permute(0, 2, 3, 4, 1)
        .flatten(2, 3)
    )
    y = module.proj_in(y)
    seen = _attend_over_time(inner.attn1, first, fused_ops.layer_norm(inner.norm1, y))
    told = fused_ops.add_layer_norm(y, seen, inner.norm2)
    del seen
    seen = _attend_over_time(inner.attn2, second, told)
    del told
    return y, fused_ops.add_layer_norm(y, seen, inner.norm3)


def _shown_over_time(module: TransformerTemporalModel, x: Tensor, y: Tensor) -> Tensor:
    """Tokens of clips back to images, added to what there was."""
    y = module.proj_out(y)
    return x + y.flatten(0, 1).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)  # type: ignore[no-any-return, no-untyped-call]


def _attend_over_time(attention: Attention, whole: Tensor | None, x: Tensor) -> Tensor:
    """Self-attention over the frames of (clips, frames, places, channels)."""
    project = _project if fused_ops.enabled() else _project_apart
    y = fused_ops.temporal_attention(project(attention, whole, x), attention.heads)
    out: Tensor = attention.to_out[0](y)
    return out


def _rows(module: FeedForward) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        return _gated(module, x.flatten(0, -2)).view(*x.shape[:-1], -1)

    return forward


def _gated(module: FeedForward, x: Tensor) -> Tensor:
    out: Tensor = module.net[2](fused_ops.geglu(module.net[0].proj(x)))
    return out
