"""What the checkpoint can do, measured on pictures that training never saw.

    python -m pipeline.micro.evaluate [--checkpoint DIR] [--sheet FILE] [--steps N] ...

For every held-out picture and motion a clip is sampled and compared with the true warp, which is
known because the picture is larger than the frame. Only pixels whose content the first frame showed
count: what a camera discovers beyond the edge is anybody's guess.
"""

import time
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import transformers
import typer
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pipeline.micro import layout, motions, pictures
from pipeline.micro.motions import OPPOSITES, Motion
from pipeline.micro.sampling import sample, to_image, to_tensor

PHOTOGRAPHS = Path(__file__).parent / "photographs"
HELD_OUT = 9_000_001  # the seed of procedural pictures that training does not use
MARGIN = 1.3  # the picture is this much larger than the frame
JUDGED: tuple[Motion, ...] = tuple(motion for motion in Motion if motion is not Motion.GENTLE)

PROMPTS = {
    Motion.STILL: "a still picture, nothing moves",
    Motion.PAN_RIGHT: "camera panning right",
    Motion.PAN_LEFT: "the camera pans slowly to the left",
    Motion.TILT_UP: "camera tilting up",
    Motion.TILT_DOWN: "the camera moves down",
    Motion.ZOOM_IN: "slow zoom in, cinematic",
    Motion.ZOOM_OUT: "zooming out slowly",
    Motion.CLOCKWISE: "slow clockwise rotation",
    Motion.COUNTERCLOCKWISE: "rotating slowly counterclockwise",
    Motion.GENTLE: "A cat turning its head slowly",
}


class Setting(NamedTuple):
    """How the clips are sampled."""

    side: int = 64
    frames: int = 8
    steps: int = 12
    guidance: float = 1.0
    rescale: float = 0.0


class Judged(NamedTuple):
    """One clip against the true one. Decibels, ratios, seconds."""

    photograph: bool
    motion: Motion
    nearest: Motion
    first_frame: float
    warp: float
    copy: float
    sharpness: float
    seconds: float


def held_out(side: int, procedural: int) -> list[tuple[bool, Tensor]]:
    """(is it a photograph, (3, larger, larger)) for every picture of the evaluation."""
    large = round(side * MARGIN)
    images: list[tuple[bool, Image.Image]] = [
        (True, Image.open(path)) for path in sorted(PHOTOGRAPHS.glob("*.jpg"))
    ]
    for array in pictures.bank(procedural, HELD_OUT) if procedural else ():
        images.append((False, Image.fromarray(array)))
    return [
        (real, to_tensor(image.resize((large, large), Image.Resampling.LANCZOS))[0])
        for real, image in images
    ]


def truth(picture: Tensor, motion: Motion, setting: Setting) -> Tensor:
    """The true clip, (frames, 3, side, side), its first frame as a file would hold it."""
    times = [k / (setting.frames - 1) for k in range(setting.frames)]
    return motions.clip(picture, motion, times, setting.side, setting.side)


def seen(motion: Motion, setting: Setting) -> Tensor:
    """(frames, 1, side, side): 1 where a pixel shows what the first frame showed."""
    side = setting.side
    times = [k / (setting.frames - 1) for k in range(setting.frames)]
    masks = [motions.visible(motion, time, side, side) for time in times]
    return torch.stack(masks).unsqueeze(1).float()


def decibels(first: Tensor, second: Tensor, mask: Tensor) -> float:
    """PSNR over the masked pixels of two clips."""
    error = ((first - second) / 2).pow(2) * mask
    mean = error.sum() / (mask.sum() * first.shape[1])
    return float(-10 * torch.log10(mean + 1e-10))


def inner(clip: Tensor) -> Tensor:
    """The part of a clip that no motion can push out of sight."""
    edge = int(1.2 * motions.reach(*clip.shape[-2:])) + 2
    return clip[..., edge:-edge, edge:-edge]


def gradient_energy(frame: Tensor) -> float:
    """Mean square of the differences between neighbouring pixels."""
    across, down = frame.diff(dim=-1), frame.diff(dim=-2)
    return float(across.pow(2).mean() + down.pow(2).mean())


class Clips(NamedTuple):
    """The sampled and the true clips of one picture, and how long each took to sample."""

    made: dict[Motion, Tensor]
    true: dict[Motion, Tensor]
    seconds: dict[Motion, float]


def clips_of(model: layout.Model, picture: Tensor, setting: Setting) -> Clips:
    """Sample every judged motion of one picture."""
    true = {motion: truth(picture, motion, setting) for motion in JUDGED}
    image = to_image(true[Motion.STILL][0])
    made: dict[Motion, Tensor] = {}
    seconds: dict[Motion, float] = {}
    for motion in JUDGED:
        began = time.process_time()
        made[motion] = sample(
            model,
            image,
            PROMPTS[motion],
            frames=setting.frames,
            steps=setting.steps,
            guidance=setting.guidance,
            rescale=setting.rescale,
        )
        seconds[motion] = time.process_time() - began
    return Clips(made, true, seconds)


def verdict(clips: Clips, motion: Motion, real: bool, setting: Setting) -> Judged:
    """One clip against the truth."""
    made, true, mask = clips.made[motion], clips.true[motion], seen(motion, setting)
    last = inner(made[-1])
    ends = {other: inner(clips.true[other][-1]) for other in JUDGED}
    distance = {other: float((last - end).pow(2).mean()) for other, end in ends.items()}
    return Judged(
        photograph=real,
        motion=motion,
        nearest=min(distance, key=lambda other: distance[other]),
        first_frame=decibels(made[:1], true[:1], mask[:1]),
        warp=decibels(made[1:], true[1:], mask[1:]),
        copy=decibels(true[:1].expand_as(true[1:]), true[1:], mask[1:]),
        sharpness=gradient_energy(last) / gradient_energy(inner(true[-1])),
        seconds=clips.seconds[motion],
    )


def opposites(clips: Clips) -> dict[tuple[Motion, Motion], tuple[float, float]]:
    """For each pair: the size of the difference against the true one, and their agreement.

    The size is a ratio of root mean squares. The agreement is the share of the true difference that
    the clips contain: 1 for the truth, 0 for any difference that has nothing to do with it.
    """
    found = {}
    for one, other in OPPOSITES:
        made = inner(clips.made[one] - clips.made[other])
        true = inner(clips.true[one] - clips.true[other])
        size = float(made.pow(2).mean().sqrt() / true.pow(2).mean().sqrt())
        found[one, other] = (size, float((made * true).sum() / true.pow(2).sum()))
    return found


class Report(NamedTuple):
    """All that one evaluation found."""

    judged: list[Judged]
    differences: dict[tuple[Motion, Motion], list[tuple[float, float]]]
    seeds: float  # mean difference between clips of two seeds, in levels of 255


def evaluate(model: layout.Model, setting: Setting, procedural: int) -> Report:
    """Sample and judge every held-out picture x motion."""
    report = Report([], {pair: [] for pair in OPPOSITES}, 0.0)
    for real, picture in held_out(setting.side, procedural):
        clips = clips_of(model, picture, setting)
        report.judged.extend(verdict(clips, motion, real, setting) for motion in JUDGED)
        for pair, found in opposites(clips).items():
            report.differences[pair].append(found)
    image = to_image(truth(picture, Motion.STILL, setting)[0])
    first, second = (
        sample(model, image, PROMPTS[Motion.PAN_RIGHT], steps=setting.steps, seed=seed)
        for seed in (1, 2)
    )
    return report._replace(seeds=float((first - second).abs().mean() * 127.5))


def contact_sheet(model: layout.Model, setting: Setting) -> Image.Image:
    """One row a prompt: its words, five frames of the true clip, the same five of the made one."""
    photographs = [picture for _, picture in held_out(setting.side, 0)]
    chosen = np.linspace(0, setting.frames - 1, 5).round().astype(int).tolist()
    side, words, gap = setting.side, 190, 8
    sheet = Image.new("RGB", (words + 10 * side + gap, side * len(PROMPTS)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (motion, prompt) in enumerate(PROMPTS.items()):
        true = truth(photographs[row % len(photographs)], motion, setting)
        made = sample(
            model,
            to_image(true[0]),
            prompt,
            frames=setting.frames,
            steps=setting.steps,
            guidance=setting.guidance,
            rescale=setting.rescale,
        )
        draw.text((4, row * side + side // 2 - 6), prompt, fill="black")
        for column, frame in enumerate(chosen):
            left = words + column * side
            sheet.paste(to_image(true[frame]), (left, row * side))
            sheet.paste(to_image(made[frame]), (left + 5 * side + gap, row * side))
    return sheet


def mean(values: list[float]) -> float:
    """The mean, or not-a-number of nothing."""
    return sum(values) / len(values) if values else float("nan")


def tables(report: Report, setting: Setting) -> list[Table]:
    """The figures, as tables for a terminal."""
    by_motion = Table(
        title=f"{setting.side} px, {setting.frames} frames, {setting.steps} steps,"
        f" guidance {setting.guidance:g}"
    )
    for name in ("motion", "nearest", "PSNR", "copy", "gain", "sharp", "frame 0"):
        by_motion.add_column(name, justify="left" if name == "motion" else "right", no_wrap=True)
    groups: list[tuple[str, list[Judged]]] = [
        (str(motion), [j for j in report.judged if j.motion is motion]) for motion in JUDGED
    ]
    moving = [j for j in report.judged if j.motion is not Motion.STILL]
    groups += [
        ("all that move", moving),
        ("  photographs", [j for j in moving if j.photograph]),
        ("  procedural", [j for j in moving if not j.photograph]),
    ]
    for name, group in groups:
        still = name == str(Motion.STILL)
        right = sum(j.nearest is j.motion for j in group)
        warp, copied = mean([j.warp for j in group]), mean([j.copy for j in group])
        by_motion.add_row(
            name,
            f"{right}/{len(group)}",
            f"{warp:.1f}",
            "-" if still else f"{copied:.1f}",
            "-" if still else f"{warp - copied:+.1f}",
            f"{mean([j.sharpness for j in group]):.2f}",
            f"{mean([j.first_frame for j in group]):.1f}",
        )
    by_pair = Table(title="the clips of opposite prompts, against the true ones")
    for name in ("pair", "size of difference", "agreement"):
        by_pair.add_column(name, justify="left" if name == "pair" else "right")
    for (one, other), found in report.differences.items():
        by_pair.add_row(
            f"{one} / {other}",
            f"{mean([size for size, _ in found]):.2f}",
            f"{mean([agreement for _, agreement in found]):.2f}",
        )
    rest = Table(title="the rest", show_header=False)
    frames = [j.first_frame for j in report.judged if j.photograph]
    rest.add_row("frame 0, photographs: mean, worst", f"{mean(frames):.1f}, {min(frames):.1f} dB")
    rest.add_row("processor seconds a clip", f"{mean([j.seconds for j in report.judged]):.1f}")
    rest.add_row("two seeds differ by, levels of 255", f"{report.seeds:.2f}")
    return [by_motion, by_pair, rest]


def main(
    folder: Annotated[Path, typer.Option("--checkpoint")] = layout.FOLDER,
    side: int = 64,
    frames: int = 8,
    steps: int = 12,
    guidance: float = 1.0,
    rescale: float = 0.0,
    procedural: Annotated[int, typer.Option(help="how many procedural pictures")] = 8,
    sheet: Annotated[Path | None, typer.Option(help="write a contact sheet to this file")] = None,
) -> None:
    """Measure a checkpoint on held-out pictures and print the tables."""
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    setting = Setting(side, frames, steps, guidance, rescale)
    model = layout.load(folder)
    report = evaluate(model, setting, procedural)
    for table in tables(report, setting):
        Console().print(table)
    if sheet:
        contact_sheet(model, setting).save(sheet)


if __name__ == "__main__":
    typer.run(main)
