"""What each saving costs: a clip made with it beside the exact one, on pictures never seen.

    python -m pipeline.micro.training.cost [--pictures 2] [--steps 50] [--guidance 9] [--json]

For every held-out photograph and motion the exact clip is made, and one with each saving and each
speed. How far they are apart, whether they still move as prompted, and how much time a clip takes
are measured on this model; the share of the work that is left is counted on the published one:
512 x 512, 16 frames, as many steps.
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
from pipeline.micro.training.film import Setting, film, load_on_cpu
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
"""Of the published model's latents, for the count."""


class Priced(NamedTuple):
    """One clip beside the exact one and the true one."""

    seconds: float
    apart: float
    """Decibels to the exact clip; infinite for the same."""
    true: float
    """Decibels to the true warp, over what the first frame showed."""
    right: bool
    """Whether the true warp that its last frame is nearest to is the prompted one."""


def prices(
    model: LoadedModel,
    setting: Setting,
    pictures: Sequence[Tensor],
    motions: Sequence[Motion] = JUDGED,
) -> Iterator[Row]:
    """A row for each case, over all pictures and motions."""
    found: dict[str, list[Priced]] = {name: [] for name in CASES}
    for picture in pictures:
        for motion in motions:
            for name, priced in _priced(model, setting, picture, motion):
                found[name].append(priced)
    whole = denoising(setting.course, _FRAMES, _SIDE)
    spent = {name: sum(each.seconds for each in clips) for name, clips in found.items()}
    for name, clips in found.items():
        course = setting._replace(savings=CASES[name]).course
        apart = [each.apart for each in clips]
        yield {
            "case": name,
            "steps": course.steps,
            "work_left": round(denoising(course, _FRAMES, _SIDE) / whole, 3),
            "seconds": round(spent[name] / len(clips), 2),
            "ratio": round(spent["exact"] / spent[name], 2),
            "psnr_to_exact_db": None if name == "exact" else round(mean(apart), 1),
            "worst_psnr_db": None if name == "exact" else round(min(apart), 1),
            "psnr_to_truth_db": round(mean([each.true for each in clips]), 1),
            "motion_right": sum(each.right for each in clips),
            "clips": len(clips),
        }


def _priced(
    model: LoadedModel, setting: Setting, picture: Tensor, motion: Motion
) -> Iterator[tuple[str, Priced]]:
    true = {other: truth(picture, other, setting) for other in JUDGED}
    image, mask = to_image(true[Motion.STILL][0]), seen(motion, setting)
    exact: Tensor | None = None
    for name, savings in CASES.items():
        since = time.process_time()
        clip = film(model, image, PROMPTS[motion], setting._replace(savings=savings))
        seconds = time.process_time() - since
        exact = clip if exact is None else exact
        yield (
            name,
            Priced(
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
    asked = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting(steps=asked.steps, guidance=asked.guidance)
    pictures = heldout.photographs(setting)[: asked.pictures]
    rows = list(prices(load_on_cpu(), setting, pictures))
    console = Console(width=140)
    if asked.json:
        console.print_json(json.dumps(rows))
        return
    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    console.print(table)


if __name__ == "__main__":
    main()
