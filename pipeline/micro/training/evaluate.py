"""Evaluation of a checkpoint on held-out pictures.

    python -m pipeline.micro.training.evaluate [--preset NAME] [--size PIXELS] [--steps N] ...

For every held-out picture and motion a clip is generated as in a job, and compared with the
ground-truth warp. Exits with status 1 if a threshold is missed. So it also measures the quality
cost of options that save time or memory.
"""

from typing import Annotated, get_args

import torch
import typer
from rich.console import Console
from rich.table import Table

from pipeline.memory.modes import Mode
from pipeline.micro.training import heldout
from pipeline.micro.training.clip import Setting, generate_clip, load_on_cpu
from pipeline.micro.training.heldout import JUDGED, PROMPTS, to_image
from pipeline.micro.training.metrics import Line, Report, average, bar, judge, together
from pipeline.micro.training.motions import OPPOSITES, Motion
from pipeline.request.presets import MICRO, MICRO_FAMILY
from pipeline.request.spec import Sampler, clip_size
from pipeline.worker.model.loader import LoadedModel


def evaluate(model: LoadedModel, setting: Setting, *, photographs: int, procedural: int) -> Report:
    """Generate and judge every motion of a number of held-out pictures."""
    reports = [
        judge(model, picture, setting, photograph=True)
        for picture in heldout.photographs(setting)[:photographs]
    ]
    reports += [
        judge(model, picture, setting, photograph=False)
        for picture in heldout.procedural(setting, procedural)
    ]
    return together(reports)


def seeds_apart(model: LoadedModel, setting: Setting) -> float:
    """Return the mean difference between the clips of two seeds, in levels of 255."""
    image = to_image(heldout.truth(heldout.photographs(setting)[0], Motion.STILL, setting)[0])
    one, other = (
        generate_clip(model, image, PROMPTS[Motion.PAN_RIGHT], setting, seed=seed)
        for seed in (1, 2)
    )
    return float((one - other).abs().mean()) * 127.5


def by_motion(report: Report) -> Table:
    """Tabulate the metrics, one row a motion."""
    table = _table("means over the pictures", "motion")
    for name in ("nearest", "PSNR", "copy", "gain", "sharp", "frame 0"):
        table.add_column(name, justify="right", no_wrap=True)
    for motion in JUDGED:
        found = report.of(motion)
        still = motion is Motion.STILL
        table.add_row(
            motion,
            f"{found.right}/{found.clips}",
            f"{found.warp:.1f}",
            "" if still else f"{found.copy:.1f}",
            "" if still else f"{found.gain:+.1f}",
            f"{found.sharpness:.2f}",
            f"{found.first_frame:.1f}",
        )
    return table


def by_pair(report: Report) -> Table:
    """Tabulate the differences, one row a pair of opposite prompts."""
    table = _table("clips of opposite prompts, against the true ones", "pair")
    for name in ("size of difference", "agreement"):
        table.add_column(name, justify="right")
    for pair in OPPOSITES:
        found = report.between(pair)
        table.add_row(" / ".join(pair), f"{found.size:.2f}", f"{found.agreement:.2f}")
    return table


def by_line(lines: list[Line]) -> Table:
    """Tabulate the thresholds, each with the worst motion, pair or photograph."""
    table = _table("the bar", "worst of all")
    for name in ("at least", "found", ""):
        table.add_column(name, justify="right")
    for line in lines:
        verdict = "met" if line.met else "MISSED"
        table.add_row(line.name, f"{line.least:g}", f"{line.found:.2f}", verdict)
    return table


def _table(title: str, first: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first, no_wrap=True)
    return table


def main(
    preset: Annotated[str, typer.Option(help="whose values hold where none is given")] = "preview",
    size: Annotated[int | None, typer.Option(help="side of the square with the area")] = None,
    aspect: Annotated[str, typer.Option(help='"square" or a ratio such as "16:9"')] = "square",
    frames: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    rescale: float | None = None,
    sampler: Annotated[str, typer.Option(help=" | ".join(get_args(Sampler)))] = "ddim",
    mode: Annotated[Mode, typer.Option(help="how memory is saved")] = Mode.RESIDENT,
    dtype: Annotated[str, typer.Option(help="float32 | bfloat16 | float16")] = "float32",
    checkpoint: Annotated[str, typer.Option(help="a folder in diffusers layout")] = MICRO,
    photographs: Annotated[int, typer.Option(min=1, max=4)] = 4,
    procedural: Annotated[int, typer.Option(help="how many procedural pictures")] = 2,
) -> None:
    """Measure a checkpoint on held-out pictures and print the tables."""
    torch.set_num_threads(1)
    chosen = MICRO_FAMILY.presets[preset]
    width, height = clip_size(size or chosen.side, aspect, (1, 1), MICRO_FAMILY.multiple)
    setting = Setting(
        width=width,
        height=height,
        frames=frames or chosen.frames,
        steps=steps or chosen.steps,
        guidance=chosen.guidance if guidance is None else guidance,
        rescale=chosen.guidance_rescale if rescale is None else rescale,
        sampler=sampler,  # type: ignore[arg-type]
        mode=mode,
    )
    model = load_on_cpu(checkpoint, dtype)
    report = evaluate(model, setting, photographs=photographs, procedural=procedural)
    lines = bar(report)
    console = Console()
    console.print(setting)
    for table in (by_motion(report), by_pair(report), by_line(lines)):
        console.print(table)
    whole = average(report.clips)
    console.print(f"{whole.seconds:.1f} processor seconds a clip")
    console.print(f"two seeds differ by {seeds_apart(model, setting):.2f} levels of 255")
    raise typer.Exit(0 if all(line.met for line in lines) else 1)


if __name__ == "__main__":
    typer.run(main)
