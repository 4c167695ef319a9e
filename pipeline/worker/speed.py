"""How fast a step of the UNet is: the plain one beside ours, in turn, with the difference.

    python -m pipeline.worker.speed [--rounds 5]

On a CPU, in one thread, in seconds of its time, which others on the machine do not lengthen: a UNet
of random weights a fifth as wide as the published one, with each transform alone and with all; then
the embedded model. A row of JSON a line.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from diffusers import I2VGenXLUNet
from torch import Tensor, nn

from pipeline.presets import MICRO
from pipeline.worker.conditions import Conditions
from pipeline.worker.exact.choice import EXACT, applied
from pipeline.worker.model import load
from pipeline.worker.sampler import plain

Row = dict[str, Any]


def compared(
    unet: Any, cases: Mapping[str, Sequence[str]], frames: int, side: int, rounds: int
) -> Iterator[Row]:
    """Medians over the rounds; both branches of guidance, `side` latent cells a side."""
    width = unet.config.cross_attention_dim
    told = [
        Conditions(
            _noise(1, 77, width, seed=branch),
            _noise(1, 1, width, seed=10 + branch),
            _noise(1, 4, frames, side, side, seed=20),
            torch.tensor([16]),
        )
        for branch in (1, 2)
    ]
    both = told[0].join(Conditions(told[1].text, told[1].image, told[0].latents, told[0].fps))
    latents, moment = _noise(1, 4, frames, side, side, seed=30), torch.tensor(481)
    predict = plain(unet, both)

    def timed() -> tuple[Tensor, float]:
        since = time.process_time()
        return predict(latents, moment), time.process_time() - since

    reference, _ = timed()
    plains: list[float] = []
    ours: dict[str, list[float]] = {name: [] for name in cases}
    differences = dict.fromkeys(cases, 0.0)
    for _ in range(rounds):
        plains.append(timed()[1])
        for name, transforms in cases.items():
            with applied(unet, transforms):
                given, _ = timed()  # a clip's first step, with its constants
                differences[name] = max(differences[name], float((given - reference).abs().max()))
                ours[name].append(timed()[1])
    for name, seconds in ours.items():
        yield {
            "case": name,
            "reference_seconds": round(median(plains), 3),
            "seconds": round(median(seconds), 3),
            "ratio": round(median(plains) / median(seconds), 3),
            "max_abs_diff": differences[name],
        }


def mid_size() -> Any:
    """Random weights; those that are zero at first are not left so."""
    torch.manual_seed(0)
    unet = I2VGenXLUNet(
        block_out_channels=(64, 128, 256, 256), cross_attention_dim=256, attention_head_dim=16
    ).eval()
    for module in unet.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.normal_(module.weight, std=0.02)
    return unet


def _noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    alone = {f"mid-size, {name}": [name] for name in EXACT}
    rows = [*compared(mid_size(), alone | {"mid-size, all": [*EXACT]}, 8, 32, rounds)]
    micro = load(MICRO, "cpu", "float32", on_step=lambda: None)
    micro.bring_unet()
    rows += compared(micro.unet, {"micro, all": [*EXACT]}, 8, 32, rounds)
    for row in rows:
        sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
