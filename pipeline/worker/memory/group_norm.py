"""Group normalisation of a tensor that is worked on in pieces.

Its statistics span the whole clip or frame, so they are gathered first; then any piece can be
normalised alone, with the same result up to rounding.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

_AT_ONCE = 1 << 23
"""Elements that are looked at in float32 at once while statistics are gathered."""


class Statistics(NamedTuple):
    """Mean and variance of each channel's group: (channels,) float32 each."""

    mean: Tensor
    variance: Tensor


def gather(x: Tensor, norm: nn.GroupNorm) -> Statistics:
    """Statistics over all of `x` (images, channels, height, width), as of one single sample.

    Pieces are combined as Chan, Golub and LeVeque (1983) do, which is stable.
    """
    _, channels, height, width = x.shape
    lines = max(1, _AT_ONCE // (channels * width))
    images = max(1, _AT_ONCE // (channels * width * height))
    sizes, means, variances = [], [], []
    for top in range(0, height, lines):
        for first in range(0, len(x), images):
            piece = x[first : first + images, :, top : top + lines]
            groups = piece.reshape(len(piece), norm.num_groups, -1, *piece.shape[2:]).float()
            variance, mean = torch.var_mean(groups, dim=(0, 2, 3, 4), correction=0)
            sizes.append(groups.numel())
            means.append(mean)
            variances.append(variance)
            del groups
    share = torch.tensor(sizes, dtype=torch.float32, device=x.device)[:, None] / sum(sizes)
    every = torch.stack(means)
    mean = (share * every).sum(0)
    variance = (share * (torch.stack(variances) + (every - mean) ** 2)).sum(0)
    per_group = channels // norm.num_groups
    return Statistics(mean.repeat_interleave(per_group), variance.repeat_interleave(per_group))


def normalise(piece: Tensor, norm: nn.GroupNorm, statistics: Statistics) -> Tensor:
    """A piece (n, channels, ...) normalised by the statistics of the whole.

    A batch normalisation with given statistics is just that, computed in float32.
    """
    return functional.batch_norm(
        piece,
        statistics.mean,
        statistics.variance,
        norm.weight.float(),
        norm.bias.float(),
        eps=norm.eps,
    )
