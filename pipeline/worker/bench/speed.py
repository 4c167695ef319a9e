"""Speed benchmark of a UNet step: unmodified and optimized in alternation, with the difference.

    python -m pipeline.worker.bench.speed [--rounds 5] [--frames 8] [--side 32]

On a CPU, in one thread, in seconds of CPU time, which other processes do not affect. Cases: a UNet
of random weights a fifth as wide as the published one, with each optimization and with all; the
micro model; and a VAE decoder, half as wide. One JSON row a line.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from statistics import median
from typing import Any

import torch
from diffusers import AutoencoderKL, I2VGenXLUNet
from torch import Tensor, nn

from pipeline.request.presets import MICRO
from pipeline.worker.diffusion.conditioning import Conditions
from pipeline.worker.diffusion.sampler import predict_unguided
from pipeline.worker.memory.weights import join_tensors
from pipeline.worker.model.loader import load_model
from pipeline.worker.monkey_patch import patched
from pipeline.worker.optimizations.attention import qkv_weights
from pipeline.worker.optimizations.convolution import subpixel_upsample
from pipeline.worker.optimizations.registry import OPTIMIZATIONS, apply

Timing = dict[str, Any]
Within = Callable[[], AbstractContextManager[None]]


def time_side_by_side(
    run: Callable[[], Tensor],
    cases: Mapping[str, Within],
    rounds: int,
    clock: Callable[[], float] = time.process_time,
) -> Iterator[Timing]:
    """Yield a row for each case, with medians over the rounds: `run` as is, and within the case.

    The first call within a case is not timed. `clock` returns seconds, and must wait for queued
    GPU work.
    """

    def timed() -> float:
        since = clock()
        run()
        return clock() - since

    reference = run()
    reference_seconds: list[float] = []
    optimized: dict[str, list[float]] = {name: [] for name in cases}
    differences = dict.fromkeys(cases, 0.0)
    for _ in range(rounds):
        reference_seconds.append(timed())
        for name, within in cases.items():
            with within():
                result = run()  # the first step of a clip computes the step invariants
                differences[name] = max(differences[name], float((result - reference).abs().max()))
                optimized[name].append(timed())
    for name, seconds in optimized.items():
        yield {
            "case": name,
            "reference_seconds": round(median(reference_seconds), 4),
            "seconds": round(median(seconds), 4),
            "ratio": round(median(reference_seconds) / median(seconds), 3),
            "max_abs_diff": differences[name],
        }


def step(unet: Any, frames: int, side: int) -> Callable[[], Tensor]:
    """Return a function that runs one guided step with `side` x `side` latents."""
    width = unet.config.cross_attention_dim
    first = next(unet.parameters())

    def noise(*shape: int, seed: int) -> Tensor:
        values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return values.to(first)

    latents = noise(1, 4, frames, side, side, seed=20)
    rate = torch.tensor([16], device=first.device)
    branches = [
        Conditions(
            noise(1, 77, width, seed=branch), noise(1, 1, width, seed=10 + branch), latents, rate
        )
        for branch in (1, 2)
    ]
    predict = predict_unguided(unet, branches[0].join(branches[1]))
    timestep = torch.tensor(481, device=first.device)
    return partial(predict, noise(1, 4, frames, side, side, seed=30), timestep)


def mid_size() -> Any:
    """Build a UNet of random weights, also for layers that diffusers initialises to zero."""
    torch.manual_seed(0)
    unet = I2VGenXLUNet(
        block_out_channels=(64, 128, 256, 256), cross_attention_dim=256, attention_head_dim=16
    ).eval()
    for module in unet.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.normal_(module.weight, std=0.02)
    for group in qkv_weights(unet):  # adjacent, as after loading to a device
        join_tensors(group, [tensor.data for tensor in group], torch.device("cpu"))
    return unet


def decoder() -> Any:
    """Build a VAE of random weights, half as wide as the published one."""
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(64, 128, 256, 256),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
    ).eval()


@torch.no_grad()
def main() -> None:
    """Print the rows as JSON lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--side", type=int, default=32, help="latent pixels; a multiple of 8")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for row in _rows(options.rounds, options.frames, options.side):
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


def _rows(rounds: int, frames: int, side: int) -> Iterator[Timing]:
    unet = mid_size()
    separate: dict[str, Within] = {
        f"mid-size, {name}": partial(apply, unet, [name]) for name in OPTIMIZATIONS
    }
    combined: dict[str, Within] = {"mid-size, all": partial(apply, unet, OPTIMIZATIONS)}
    yield from time_side_by_side(step(unet, frames, side), separate | combined, rounds)
    micro = load_model(MICRO, "cpu", "float32", on_step=lambda: None)
    micro.load_unet()
    micro_all = partial(apply, micro.unet, OPTIMIZATIONS)
    yield from time_side_by_side(step(micro.unet, frames, side), {"micro, all": micro_all}, rounds)
    vae = decoder()
    latents = torch.randn(2, 4, side, side, generator=torch.Generator().manual_seed(1))
    decoder_cases: dict[str, Within] = {
        "VAE decoder, subpixel_upsample": lambda: patched(subpixel_upsample(vae.decoder))
    }
    yield from time_side_by_side(lambda: vae.decode(latents).sample, decoder_cases, rounds)


if __name__ == "__main__":
    main()
