"""Group normalisation in two passes, for tensors that are processed in chunks.

The statistics span the whole clip or frame, so they are gathered first. Then any chunk can be
normalised separately, with the same result up to rounding.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

_MAX_ELEMENTS = 1 << 23
"""Largest number of elements that `gather` converts to float32 at once."""


class Statistics(NamedTuple):
    """Mean and variance of each channel's group: (channels,) float32 each."""

    mean: Tensor
    variance: Tensor


def gather(x: Tensor, norm: nn.GroupNorm) -> Statistics:
    """Gather statistics over all of `x` (images, channels, height, width), as of a single sample.

    Chunks are combined as in Chan, Golub and LeVeque (1983), which is numerically stable.
    """
    _, channels, height, width = x.shape
    rows = max(1, _MAX_ELEMENTS // (channels * width))
    images = max(1, _MAX_ELEMENTS // (channels * width * height))
    sizes, means, variances = [], [], []
    for top in range(0, height, rows):
        for first in range(0, len(x), images):
            chunk = x[first : first + images, :, top : top + rows]
            groups = chunk.reshape(len(chunk), norm.num_groups, -1, *chunk.shape[2:]).float()
            variance, mean = torch.var_mean(groups, dim=(0, 2, 3, 4), correction=0)
            sizes.append(groups.numel())
            means.append(mean)
            variances.append(variance)
            del groups
    share = torch.tensor(sizes, dtype=torch.float32, device=x.device)[:, None] / sum(sizes)
    chunk_means = torch.stack(means)
    mean = (share * chunk_means).sum(0)
    variance = (share * (torch.stack(variances) + (chunk_means - mean) ** 2)).sum(0)
    per_group = channels // norm.num_groups
    return Statistics(mean.repeat_interleave(per_group), variance.repeat_interleave(per_group))


def normalise(chunk: Tensor, norm: nn.GroupNorm, statistics: Statistics) -> Tensor:
    """Normalise a chunk (images, channels, ...) with the statistics of the whole tensor.

    Uses batch_norm with fixed statistics, which is the same formula and computes in float32.
    """
    return functional.batch_norm(
        chunk,
        statistics.mean,
        statistics.variance,
        norm.weight.float(),
        norm.bias.float(),
        eps=norm.eps,
    )
