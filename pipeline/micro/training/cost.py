"""Quality cost of each saving: a clip with it compared with the exact one, on held-out pictures.

    python -m pipeline.micro.training.cost [--pictures 2] [--steps 50] [--guidance 9] [--json]

For every held-out photograph and motion the exact clip is generated, and one with each saving and
each speed. Difference, correctness of the motion, and CPU time are measured on this model. The
remaining share of the FLOPs is counted on the published model: 512 x 512, 16 frames, as many steps.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, get_args

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pipeline.micro.training import heldout
from pipeline.micro.training.clip import Setting, generate_clip, load_on_cpu
from pipeline.micro.training.heldout import JUDGED, PROMPTS, seen, to_image, truth
from pipeline.micro.training.metrics import decibels, mean, nearest
from pipeline.micro.training.motions import Motion
from pipeline.request.sampling_plan import SAVINGS, Saving
from pipeline.worker.bench.flops import denoising
from pipeline.worker.model.loader import LoadedModel

Row = dict[str, Any]

CASES: dict[str, tuple[Saving, ...]] = (
    {"exact": ()}
    | {f"{name} alone": (name,) for name in get_args(Saving)}
    | {speed: savings for speed, savings in SAVINGS.items() if savings}
)
_FRAMES, _SIDE = 16, 64
"""Latents of the published model, for the FLOP count."""


class ClipCost(NamedTuple):
    """One clip compared with the exact one and the ground truth."""

    seconds: float
    psnr_to_exact: float
    """Decibels."""
    psnr_to_truth: float
    """Decibels, over content that the first frame showed."""
    motion_right: bool
    """True if the nearest ground truth is that of the prompted motion."""


def measure_costs(
    model: LoadedModel,
    setting: Setting,
    pictures: Sequence[Tensor],
    motions: Sequence[Motion] = JUDGED,
) -> Iterator[Row]:
    """Yield a row for each case, over all pictures and motions."""
    found: dict[str, list[ClipCost]] = {name: [] for name in CASES}
    for picture in pictures:
        for motion in motions:
            for name, cost in _measure_clips(model, setting, picture, motion):
                found[name].append(cost)
    exact_work = denoising(setting.plan, _FRAMES, _SIDE)
    spent = {name: sum(each.seconds for each in clips) for name, clips in found.items()}
    for name, clips in found.items():
        plan = setting._replace(savings=CASES[name]).plan
        to_exact = [each.psnr_to_exact for each in clips]
        yield {
            "case": name,
            "steps": plan.steps,
            "work_left": round(denoising(plan, _FRAMES, _SIDE) / exact_work, 3),
            "seconds": round(spent[name] / len(clips), 2),
            "ratio": round(spent["exact"] / spent[name], 2),
            "psnr_to_exact_db": None if name == "exact" else round(mean(to_exact), 1),
            "worst_psnr_db": None if name == "exact" else round(min(to_exact), 1),
            "psnr_to_truth_db": round(mean([each.psnr_to_truth for each in clips]), 1),
            "motion_right": sum(each.motion_right for each in clips),
            "clips": len(clips),
        }


def _measure_clips(
    model: LoadedModel, setting: Setting, picture: Tensor, motion: Motion
) -> Iterator[tuple[str, ClipCost]]:
    true = {other: truth(picture, other, setting) for other in JUDGED}
    image, mask = to_image(true[Motion.STILL][0]), seen(motion, setting)
    exact: Tensor | None = None
    for name, savings in CASES.items():
        since = time.process_time()
        clip = generate_clip(model, image, PROMPTS[motion], setting._replace(savings=savings))
        seconds = time.process_time() - since
        exact = clip if exact is None else exact
        yield (
            name,
            ClipCost(
                seconds,
                decibels(clip, exact),
                decibels(clip[1:], true[motion][1:], mask[1:]),
                nearest(clip, true) is motion,
            ),
        )


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=2, choices=range(1, 5))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=9.0)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting(steps=options.steps, guidance=options.guidance)
    pictures = heldout.photographs(setting)[: options.pictures]
    rows = list(measure_costs(load_on_cpu(), setting, pictures))
    console = Console(width=140)
    if options.json:
        console.print_json(json.dumps(rows))
        return
    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    console.print(table)


if __name__ == "__main__":
    main()
