"""Linear layers in eight bits: one product at a time, with vectors and weights rounded for it.

    python -m tests.bench.eight

Milliseconds of one thread, for the shapes of the published model's feed-forwards and attention at
512 x 512: in float32, as pipeline/micro/eight.py does it, and as torchao does where that is
installed (`pip install torchao==0.18.0`; it is needed for nothing else). `off` is the difference to
float32, as a share of it.
"""

import importlib.util
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from pipeline.micro.eight import linear

SHAPES = (
    (4096, 320, 320), (4096, 320, 2560), (4096, 1280, 320), (1024, 640, 640), (1024, 640, 5120),
    (256, 1280, 1280), (256, 1280, 10240),
)  # fmt: skip
"""Vectors of one frame, channels in and out."""
_FRAMES = 2
_ROUNDS = 5


def least(work: Callable[[], Tensor]) -> float:
    """Milliseconds of processor time of the fastest of a few rounds."""
    work()
    spent = []
    for _ in range(_ROUNDS):
        since = time.process_time()
        work()
        spent.append(time.process_time() - since)
    return min(spent) * 1e3


def torchaos(weight: Tensor) -> nn.Module | None:
    """The same layer as torchao rounds it, if it is there."""
    if importlib.util.find_spec("torchao") is None:
        return None
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    layer = nn.Sequential(nn.Linear(weight.shape[1], weight.shape[0], bias=False))
    layer[0].weight = nn.Parameter(weight, requires_grad=False)
    quantize_(layer, Int8DynamicActivationInt8WeightConfig())
    return layer


@torch.no_grad()
def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    table = Table("vectors", "in", "out", "float32", "eight bits", "torchao", "off", box=None)
    for cells, width, out in SHAPES:
        x, weight = torch.randn(cells * _FRAMES, width), torch.randn(out, width)
        exact, there = functional.linear(x, weight), torchaos(weight)
        table.add_row(
            *map(str, (len(x), width, out)),
            f"{least(lambda x=x, w=weight: functional.linear(x, w)):.1f}",
            f"{least(lambda x=x, w=weight: linear(x, w)):.1f}",
            "-" if there is None else f"{least(lambda x=x, there=there: there(x)):.1f}",
            f"{float((linear(x, weight) - exact).norm() / exact.norm()):.3f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
