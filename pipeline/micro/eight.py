"""Linear layers in eight bits: what they would cost and bring, for price.py. No clip is made so.

Vectors and weights are rounded to integers for each product, with a scale for each vector and each
output channel. The transformer at the UNet's entrance is left as it is: its vectors have values so
far from the others that all else is rounded away.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.worker.slices import Forwards

_LARGEST = 127


def eight(network: nn.Module) -> Forwards:
    """Every linear layer of the transformers in the blocks multiplies integers."""
    found = (
        module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and "attentions." in name
    )
    return {module: _linear(module) for module in found}


def _linear(module: nn.Linear) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        return linear(x, module.weight, module.bias)

    return forward


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`functional.linear` of (..., K) and (N, K), nearly."""
    (vectors, scales), (rows, heights) = _rounded(x.flatten(0, -2)), _rounded(weight)
    product = torch._int_mm(vectors, rows.t())
    y = product.to(x.dtype).mul_(scales).mul_(heights.t())
    if bias is not None:
        y += bias
    return y.view(*x.shape[:-1], -1)


def _rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Integers of eight bits, and the scale of each row."""
    scales = rows.abs().amax(-1, keepdim=True).clamp_(min=1e-8).div_(_LARGEST)
    return (rows / scales).round_().to(torch.int8), scales
