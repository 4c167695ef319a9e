"""Triton kernels for memory-bound operations: one pass over memory instead of several.

They take channels_last tensors, compute in float32 and round once. Shapes and sizes in docstrings
are in values, not bytes. `fused_ops` decides whether they are used.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_COLUMNS = 64
"""Channels of a tile: 128 contiguous bytes in half precision, one memory transaction."""
_TILE = 4096
"""Largest number of values in a tile: 32 for each thread of a program."""
_PROGRAMS = 2048
"""Number of programs that keeps a large GPU busy."""
_MAX_MOMENTS = 4096
"""Largest number of moments of a group that one program combines."""


@triton.jit
def _channel_moments(
    x,
    moments,
    positions,
    channels,
    TILES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Compute mean and sum of squared deviations of each channel over a segment of positions.

    Deviations are from the segment's first value: with squares of the values themselves a small
    variance would cancel against a large mean.
    """
    segment, column, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    channel = column * COLUMNS + tl.arange(0, COLUMNS)
    column_mask = channel < channels
    first = segment * TILES * ROWS
    x += image.to(tl.int64) * positions * channels
    origin = tl.load(x + first * channels + channel, mask=column_mask, other=0.0).to(tl.float32)
    offsets = tl.zeros([ROWS, COLUMNS], tl.float32)
    squares = tl.zeros([ROWS, COLUMNS], tl.float32)
    for tile in range(TILES):
        position = first + tile * ROWS + tl.arange(0, ROWS)
        mask = (position < positions)[:, None] & column_mask[None, :]
        at = x + position[:, None] * channels + channel[None, :]
        values = tl.load(at, mask=mask, other=0.0).to(tl.float32)
        values = tl.where(mask, values - origin[None, :], 0.0)
        offsets += values
        squares += values * values
    count = tl.minimum(positions - first, TILES * ROWS).to(tl.float32)
    mean_offset = tl.sum(offsets, 0) / count
    moments += (image * tl.num_programs(0) + segment) * 2 * channels + channel
    tl.store(moments, origin + mean_offset, mask=column_mask)
    tl.store(
        moments + channels,
        tl.maximum(tl.sum(squares, 0) - mean_offset * mean_offset * count, 0.0),
        mask=column_mask,
    )


@triton.jit
def _combine_moments(
    moments,
    weight,
    bias,
    shift_in,
    result,
    positions,
    channels,
    segment_size,
    segments,
    width,
    shift_stride,
    eps,
    SHIFTED: tl.constexpr,
    SEGMENTS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Compute the scale and shift of each channel that normalise a group.

    The moments of the segments are combined as in Chan, Golub and LeVeque (1983).
    """
    group, image = tl.program_id(0), tl.program_id(1)
    segment = tl.arange(0, SEGMENTS)
    index = tl.arange(0, WIDTH)
    channel = group * width + index
    mask = (segment < segments)[:, None] & (index < width)[None, :]
    count = tl.maximum(tl.minimum(segment_size, positions - segment * segment_size), 0).to(
        tl.float32
    )[:, None]
    at = moments + ((image * segments + segment) * 2 * channels)[:, None] + channel[None, :]
    means = tl.load(at, mask=mask, other=0.0)
    squares = tl.load(at + channels, mask=mask, other=0.0)
    offset = tl.zeros([WIDTH], tl.float32)
    if SHIFTED:
        offset += tl.load(shift_in + image * shift_stride + channel, mask=index < width, other=0.0)
    means = tl.where(mask, means + offset[None, :], 0.0)
    total = positions.to(tl.float32) * width
    mean = tl.sum(tl.sum(means * count, 1), 0) / total
    deviations = tl.where(mask, means - mean, 0.0)
    variance = tl.sum(tl.sum(squares + deviations * deviations * count, 1), 0) / total
    scale = tl.load(weight + channel, mask=index < width, other=0.0).to(tl.float32)
    scale = scale * (1.0 / tl.sqrt(variance + eps))
    shift = tl.load(bias + channel, mask=index < width, other=0.0).to(tl.float32)
    shift += (offset - mean) * scale
    result += image * 2 * channels + channel
    tl.store(result, scale, mask=index < width)
    tl.store(result + channels, shift, mask=index < width)


@triton.jit
def _scale_shift(
    x,
    scales,
    y,
    positions,
    channels,
    ACTIVATE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Scale and shift each channel of a tile, then apply SiLU if ACTIVATE."""
    image = tl.program_id(2)
    position = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    scales += image * 2 * channels + channel
    scale = tl.load(scales, mask=channel < channels, other=0.0)
    shift = tl.load(scales + channels, mask=channel < channels, other=0.0)
    mask = (position < positions)[:, None] & (channel < channels)[None, :]
    at = image.to(tl.int64) * positions * channels + position[:, None] * channels + channel[None, :]
    values = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    values = values * scale[None, :] + shift[None, :]
    if ACTIVATE:
        values = values * tl.sigmoid(values)
    tl.store(y + at, values, mask=mask)


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    activate: bool = False,
    shift: Tensor | None = None,
) -> Tensor:
    """Return the group normalisation of (images, channels, ...), with SiLU if `activate`.

    `x` and the result are channels_last. `shift`, (images or 1, channels), is added first.
    """
    images, channels = x.shape[:2]
    positions = x[0, 0].numel()
    rows = _TILE // _COLUMNS
    columns = triton.cdiv(channels, _COLUMNS)
    width = channels // groups
    max_segments = min(
        _PROGRAMS // (images * columns), _MAX_MOMENTS // triton.next_power_of_2(width)
    )
    tiles = triton.next_power_of_2(triton.cdiv(positions, rows * max(1, max_segments)))
    segment_size = tiles * rows
    segments = triton.cdiv(positions, segment_size)
    moments = x.new_empty((images, segments, 2, channels), dtype=torch.float32)
    scales = x.new_empty((images, 2, channels), dtype=torch.float32)
    y = torch.empty_like(x)
    _channel_moments[(segments, columns, images)](
        x, moments, positions, channels, TILES=tiles, ROWS=rows, COLUMNS=_COLUMNS
    )
    _combine_moments[(groups, images)](
        moments,
        weight,
        bias,
        moments if shift is None else shift,
        scales,
        positions,
        channels,
        segment_size,
        segments,
        width,
        shift.stride(0) if shift is not None and len(shift) > 1 else 0,
        eps,
        SHIFTED=shift is not None,
        SEGMENTS=triton.next_power_of_2(segments),
        WIDTH=triton.next_power_of_2(width),
    )
    _scale_shift[(triton.cdiv(positions, rows), columns, images)](
        x, scales, y, positions, channels, ACTIVATE=activate, ROWS=rows, COLUMNS=_COLUMNS
    )
    return y


@triton.jit
def _add_bias_residual(
    x,
    residual,
    bias,
    rows,
    channels,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = (row < rows)[:, None] & (channel < channels)[None, :]
    at = row[:, None] * channels + channel[None, :]
    values = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    values += tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
    values += tl.load(bias + channel, mask=channel < channels, other=0.0).to(tl.float32)[None, :]
    tl.store(x + at, values, mask=mask)


def add_bias_residual(x: Tensor, residual: Tensor, bias: Tensor) -> None:
    """Add `residual` and the bias of each channel to `x`, in place.

    x, residual: (images, channels, ...), channels_last. bias: (channels,).
    """
    channels = x.shape[1]
    rows = x.numel() // channels
    rows_per_program = _TILE // _COLUMNS
    _add_bias_residual[(triton.cdiv(rows, rows_per_program), triton.cdiv(channels, _COLUMNS))](
        x, residual, bias, rows, channels, ROWS=rows_per_program, COLUMNS=_COLUMNS
    )


@triton.jit
def _layer_norm(
    x,
    residual,
    weight,
    bias,
    y,
    rows,
    width,
    eps,
    RESIDUAL: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    column_mask = column < width
    mask = (row < rows)[:, None] & column_mask[None, :]
    at = row[:, None] * width + column[None, :]
    values = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    if RESIDUAL:
        values += tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
        tl.store(x + at, values, mask=mask)
    mean = tl.sum(values, 1) / width
    deviations = tl.where(mask, values - mean[:, None], 0.0)
    variance = tl.sum(deviations * deviations, 1) / width
    scale = tl.load(weight + column, mask=column_mask, other=0.0).to(tl.float32)
    shift = tl.load(bias + column, mask=column_mask, other=0.0).to(tl.float32)
    deviations = deviations * (1.0 / tl.sqrt(variance + eps))[:, None]
    tl.store(y + at, deviations * scale[None, :] + shift[None, :], mask=mask)


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, *, residual: Tensor | None = None
) -> Tensor:
    """Return the layer normalisation of contiguous (..., width).

    `residual`, of the same shape, is first added to `x`, in place.
    """
    width = x.shape[-1]
    rows = x.numel() // width
    padded = triton.next_power_of_2(width)
    rows_per_program = max(1, _TILE // padded)
    y = torch.empty_like(x)
    _layer_norm[(triton.cdiv(rows, rows_per_program),)](
        x,
        x if residual is None else residual,
        weight,
        bias,
        y,
        rows,
        width,
        eps,
        RESIDUAL=residual is not None,
        ROWS=rows_per_program,
        WIDTH=padded,
    )
    return y


@triton.jit
def _geglu(x, y, rows, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = (row < rows)[:, None] & (column < width)[None, :]
    at = x + row[:, None] * (2 * width) + column[None, :]
    values = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(at + width, mask=mask, other=0.0).to(tl.float32)
    values = values * gate * 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
    tl.store(y + row[:, None] * width + column[None, :], values, mask=mask)


def geglu(x: Tensor) -> Tensor:
    """Return the first half of each contiguous row (rows, 2 width) times GELU of the rest."""
    rows, width = len(x), x.shape[1] // 2
    columns = 2 * _COLUMNS
    rows_per_program = _TILE // columns
    y = x.new_empty((rows, width))
    _geglu[(triton.cdiv(rows, rows_per_program), triton.cdiv(width, columns))](
        x, y, rows, width, ROWS=rows_per_program, COLUMNS=columns
    )
    return y


@triton.jit
def _temporal_attention(
    queries,
    keys,
    values,
    y,
    frames,
    positions,
    heads,
    width,
    token,
    scale,
    FRAMES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Attend over all frames, for one head of one position."""
    position, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    frame = tl.arange(0, FRAMES)
    column = tl.arange(0, WIDTH)
    column_mask = column < width
    mask = (frame < frames)[:, None] & column_mask[None, :]
    index = (tl.program_id(1) * frames + frame).to(tl.int64) * positions + position
    at = index[:, None] * token + (head * width + column)[None, :]
    q = tl.load(queries + at, mask=mask, other=0.0)
    k = tl.load(keys + at, mask=mask, other=0.0)
    v = tl.load(values + at, mask=mask, other=0.0)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    scores = tl.where((frame < frames)[None, :], scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    weights = weights / tl.sum(weights, 1)[:, None]
    attended = tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    at = index[:, None] * (heads * width) + (head * width + column)[None, :]
    tl.store(y + at, attended, mask=mask)


def temporal_attention(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Attend over the frames of (clips, frames, positions, channels), per position and head.

    The distance between tokens in memory must be constant, and equal in all three. The result is
    contiguous.
    """
    clips, frames, positions, channels = queries.shape
    width = channels // heads
    y = queries.new_empty(queries.shape)
    _temporal_attention[(positions * heads, clips)](
        queries,
        keys,
        values,
        y,
        frames,
        positions,
        heads,
        width,
        queries.stride(2),
        width**-0.5,
        FRAMES=max(16, triton.next_power_of_2(frames)),
        WIDTH=max(16, triton.next_power_of_2(width)),
        num_warps=1,
    )
    return y
