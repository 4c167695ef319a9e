"""Kernels of our own for what is limited by memory: each goes over it once where torch goes often.

In Triton, for tensors whose channels come last in memory. All of them compute in float32 and round
once. Shapes and sizes in docstrings are in values, not bytes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_COLUMNS = 64
"""Channels of a tile: in half precision 128 bytes in a row, which is what memory gives at once."""
_TILE = 4096
"""Values of a tile at most: 32 for each of the threads of a program."""
_PROGRAMS = 2048
"""So many programs keep a large GPU busy."""
_MOMENTS = 4096
"""Of a group at most, which one program puts together."""


@triton.jit
def _moments(
    x,
    found,
    places,
    channels,
    TILES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Mean and sum of squared deviations of each channel, over one stretch of an image's places.

    Deviations are taken from the stretch's first value: squares of the values themselves would
    lose a small variance beside a large mean.
    """
    part, column, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    channel = column * COLUMNS + tl.arange(0, COLUMNS)
    inside = channel < channels
    first = part * TILES * ROWS
    x += image.to(tl.int64) * places * channels
    origin = tl.load(x + first * channels + channel, mask=inside, other=0.0).to(tl.float32)
    off = tl.zeros([ROWS, COLUMNS], tl.float32)
    squares = tl.zeros([ROWS, COLUMNS], tl.float32)
    for tile in range(TILES):
        place = first + tile * ROWS + tl.arange(0, ROWS)
        there = (place < places)[:, None] & inside[None, :]
        at = x + place[:, None] * channels + channel[None, :]
        values = tl.load(at, mask=there, other=0.0).to(tl.float32)
        values = tl.where(there, values - origin[None, :], 0.0)
        off += values
        squares += values * values
    count = tl.minimum(places - first, TILES * ROWS).to(tl.float32)
    apart = tl.sum(off, 0) / count
    found += (image * tl.num_programs(0) + part) * 2 * channels + channel
    tl.store(found, origin + apart, mask=inside)
    tl.store(
        found + channels, tl.maximum(tl.sum(squares, 0) - apart * apart * count, 0.0), mask=inside
    )


@triton.jit
def _scales(
    found,
    weight,
    bias,
    added,
    result,
    places,
    channels,
    stretch,
    stretches,
    width,
    added_stride,
    eps,
    ADDED: tl.constexpr,
    STRETCHES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """What to multiply each channel of a group with, and what to add then, to have it normalised.

    The stretches' moments are put together as Chan, Golub and LeVeque do.
    """
    group, image = tl.program_id(0), tl.program_id(1)
    part = tl.arange(0, STRETCHES)
    its = tl.arange(0, WIDTH)
    channel = group * width + its
    there = (part < stretches)[:, None] & (its < width)[None, :]
    count = tl.maximum(tl.minimum(stretch, places - part * stretch), 0).to(tl.float32)[:, None]
    at = found + ((image * stretches + part) * 2 * channels)[:, None] + channel[None, :]
    means = tl.load(at, mask=there, other=0.0)
    squares = tl.load(at + channels, mask=there, other=0.0)
    more = tl.zeros([WIDTH], tl.float32)
    if ADDED:
        more += tl.load(added + image * added_stride + channel, mask=its < width, other=0.0)
    means = tl.where(there, means + more[None, :], 0.0)
    total = places.to(tl.float32) * width
    mean = tl.sum(tl.sum(means * count, 1), 0) / total
    off = tl.where(there, means - mean, 0.0)
    variance = tl.sum(tl.sum(squares + off * off * count, 1), 0) / total
    scale = tl.load(weight + channel, mask=its < width, other=0.0).to(tl.float32)
    scale = scale * (1.0 / tl.sqrt(variance + eps))
    shift = tl.load(bias + channel, mask=its < width, other=0.0).to(tl.float32)
    shift += (more - mean) * scale
    result += image * 2 * channels + channel
    tl.store(result, scale, mask=its < width)
    tl.store(result + channels, shift, mask=its < width)


@triton.jit
def _scaled(
    x,
    scales,
    y,
    places,
    channels,
    ACTIVATE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Each channel of a tile scaled and shifted, and SiLU of it."""
    image = tl.program_id(2)
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    scales += image * 2 * channels + channel
    scale = tl.load(scales, mask=channel < channels, other=0.0)
    shift = tl.load(scales + channels, mask=channel < channels, other=0.0)
    there = (place < places)[:, None] & (channel < channels)[None, :]
    at = image.to(tl.int64) * places * channels + place[:, None] * channels + channel[None, :]
    values = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    values = values * scale[None, :] + shift[None, :]
    if ACTIVATE:
        values = values * tl.sigmoid(values)
    tl.store(y + at, values, mask=there)


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    activate: bool = False,
    added: Tensor | None = None,
) -> Tensor:
    """Group normalisation of (images, channels, ...), and with `activate` SiLU of it.

    The channels must come last in memory, as in the result. `added`, (images or 1, channels), is
    first added to each image.
    """
    images, channels = x.shape[:2]
    places = x[0, 0].numel()
    rows = _TILE // _COLUMNS
    columns = triton.cdiv(channels, _COLUMNS)
    width = channels // groups
    most = min(_PROGRAMS // (images * columns), _MOMENTS // triton.next_power_of_2(width))
    tiles = triton.next_power_of_2(triton.cdiv(places, rows * max(1, most)))
    stretch = tiles * rows
    stretches = triton.cdiv(places, stretch)
    found = x.new_empty((images, stretches, 2, channels), dtype=torch.float32)
    scales = x.new_empty((images, 2, channels), dtype=torch.float32)
    y = torch.empty_like(x)
    _moments[(stretches, columns, images)](
        x, found, places, channels, TILES=tiles, ROWS=rows, COLUMNS=_COLUMNS
    )
    _scales[(groups, images)](
        found,
        weight,
        bias,
        found if added is None else added,
        scales,
        places,
        channels,
        stretch,
        stretches,
        width,
        added.stride(0) if added is not None and len(added) > 1 else 0,
        eps,
        ADDED=added is not None,
        STRETCHES=triton.next_power_of_2(stretches),
        WIDTH=triton.next_power_of_2(width),
    )
    _scaled[(triton.cdiv(places, rows), columns, images)](
        x, scales, y, places, channels, ACTIVATE=activate, ROWS=rows, COLUMNS=_COLUMNS
    )
    return y


@triton.jit
def _summed(
    x,
    more,
    bias,
    rows,
    channels,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = (row < rows)[:, None] & (channel < channels)[None, :]
    at = row[:, None] * channels + channel[None, :]
    values = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    values += tl.load(more + at, mask=there, other=0.0).to(tl.float32)
    values += tl.load(bias + channel, mask=channel < channels, other=0.0).to(tl.float32)[None, :]
    tl.store(x + at, values, mask=there)


def add_bias_residual(x: Tensor, more: Tensor, bias: Tensor) -> None:
    """Add to x, in x, `more` of the same shape, and to each channel its bias.

    Of (images, channels, ...), whose channels must come last in memory.
    """
    channels = x.shape[1]
    rows = x.numel() // channels
    each = _TILE // _COLUMNS
    _summed[(triton.cdiv(rows, each), triton.cdiv(channels, _COLUMNS))](
        x, more, bias, rows, channels, ROWS=each, COLUMNS=_COLUMNS
    )


@triton.jit
def _normed(
    x,
    added,
    weight,
    bias,
    y,
    rows,
    width,
    eps,
    ADDED: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    inside = column < width
    there = (row < rows)[:, None] & inside[None, :]
    at = row[:, None] * width + column[None, :]
    values = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    if ADDED:
        values += tl.load(added + at, mask=there, other=0.0).to(tl.float32)
        tl.store(x + at, values, mask=there)
    mean = tl.sum(values, 1) / width
    off = tl.where(there, values - mean[:, None], 0.0)
    variance = tl.sum(off * off, 1) / width
    scale = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    off = off * (1.0 / tl.sqrt(variance + eps))[:, None]
    tl.store(y + at, off * scale[None, :] + shift[None, :], mask=there)


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, *, added: Tensor | None = None
) -> Tensor:
    """Layer normalisation of (..., width), whole in memory. `added` is first added to x, in x."""
    width = x.shape[-1]
    rows = x.numel() // width
    padded = triton.next_power_of_2(width)
    each = max(1, _TILE // padded)
    y = torch.empty_like(x)
    _normed[(triton.cdiv(rows, each),)](
        x,
        x if added is None else added,
        weight,
        bias,
        y,
        rows,
        width,
        eps,
        ADDED=added is not None,
        ROWS=each,
        WIDTH=padded,
    )
    return y


@triton.jit
def _gated(x, y, rows, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = (row < rows)[:, None] & (column < width)[None, :]
    at = x + row[:, None] * (2 * width) + column[None, :]
    values = tl.load(at, mask=there, other=0.0).to(tl.float32)
    gate = tl.load(at + width, mask=there, other=0.0).to(tl.float32)
    values = values * gate * 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
    tl.store(y + row[:, None] * width + column[None, :], values, mask=there)


def geglu(x: Tensor) -> Tensor:
    """The first half of each row of (rows, 2 width), whole in memory, times GELU of the second."""
    rows, width = len(x), x.shape[1] // 2
    columns = 2 * _COLUMNS
    each = _TILE // columns
    y = x.new_empty((rows, width))
    _gated[(triton.cdiv(rows, each), triton.cdiv(width, columns))](
        x, y, rows, width, ROWS=each, COLUMNS=columns
    )
    return y


@triton.jit
def _over_time(
    queries,
    keys,
    values,
    y,
    frames,
    places,
    heads,
    width,
    token,
    scale,
    FRAMES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One head of one place, over all frames."""
    place, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    frame = tl.arange(0, FRAMES)
    column = tl.arange(0, WIDTH)
    inside = column < width
    there = (frame < frames)[:, None] & inside[None, :]
    its = (tl.program_id(1) * frames + frame).to(tl.int64) * places + place
    at = its[:, None] * token + (head * width + column)[None, :]
    q = tl.load(queries + at, mask=there, other=0.0)
    k = tl.load(keys + at, mask=there, other=0.0)
    v = tl.load(values + at, mask=there, other=0.0)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    scores = tl.where((frame < frames)[None, :], scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    weights = weights / tl.sum(weights, 1)[:, None]
    seen = tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    at = its[:, None] * (heads * width) + (head * width + column)[None, :]
    tl.store(y + at, seen, mask=there)


def temporal_attention(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Attention over the frames of (clips, frames, places, channels), each place and head alone.

    The tokens of all three lie equally far from each other in memory; those of the result lie one
    after the other.
    """
    clips, frames, places, channels = queries.shape
    width = channels // heads
    y = queries.new_empty(queries.shape)
    _over_time[(places * heads, clips)](
        queries,
        keys,
        values,
        y,
        frames,
        places,
        heads,
        width,
        queries.stride(2),
        width**-0.5,
        FRAMES=max(16, triton.next_power_of_2(frames)),
        WIDTH=max(16, triton.next_power_of_2(width)),
        num_warps=1,
    )
    return y
