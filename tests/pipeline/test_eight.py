"""Linear layers in eight bits, as price.py measures them."""

import torch
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from torch import nn
from torch.nn import functional

from pipeline.micro.eight import eight, linear


def test_a_product_of_eight_bits_is_off_by_a_hundredth_for_each_vector() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(3, 40, 64), torch.randn(24, 64), torch.randn(24)
    x[1] *= 1000.0  # a large vector spoils no other
    exact = functional.linear(x, weight, bias)
    off = (linear(x, weight, bias) - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert 1e-4 < float(off.mean()) < 0.02
    assert float(off.max()) < 0.1
    assert torch.equal(linear(torch.zeros_like(x), weight, bias), bias.expand_as(exact))


def test_the_entrance_is_left_as_it_is() -> None:
    def transformer() -> nn.Module:
        return TransformerTemporalModel(2, 16, in_channels=32, norm_num_groups=4)

    network = nn.ModuleDict({"transformer_in": transformer()})
    network["mid"] = nn.ModuleDict({"attentions": nn.ModuleList([transformer()])})
    inner = {m for m in network["mid"].modules() if isinstance(m, nn.Linear)}
    assert eight(network).keys() == inner != set()
