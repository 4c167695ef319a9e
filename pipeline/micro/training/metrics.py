"""Metrics of clips: against the ground-truth warp, and against a copy of the first frame.

`judge` generates and compares the clips of one picture. A `Report` collects many, and `bar` checks
them against thresholds. `heldout` has pictures and ground truth, `evaluate` prints the figures.
"""

import time
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.micro.training import motions
from pipeline.micro.training.clip import Setting, generate_clip
from pipeline.micro.training.heldout import JUDGED, PROMPTS, seen, to_image, truth
from pipeline.micro.training.motions import OPPOSITES, Motion
from pipeline.worker.model.loader import LoadedModel


class ClipScore(NamedTuple):
    """Metrics of one clip against the ground truth."""

    photograph: bool
    motion: Motion
    nearest: Motion  # of the ground truth with the nearest last frame
    first_frame: float  # decibels
    warp: float  # decibels, over all frames but the first
    copy: float  # the same, if every frame were the first
    sharpness: float  # gradient energy of the last frame, against the true one's
    seconds: float  # CPU time


class Difference(NamedTuple):
    """Difference between clips of opposite prompts, against that of the ground truth.

    `size` is the ratio of their root mean squares. `agreement` is the share of the true difference
    that the clips contain: 1 for the ground truth, 0 for an unrelated difference.
    """

    size: float
    agreement: float


Pair = tuple[Motion, Motion]


class Report(NamedTuple):
    """Metrics of any number of pictures."""

    clips: list[ClipScore]
    pairs: dict[Pair, list[Difference]]

    def of(self, motion: Motion) -> "Average":
        """Average the clips of a motion."""
        return average([clip for clip in self.clips if clip.motion is motion])

    def between(self, pair: Pair) -> Difference:
        """Average the difference of two opposite motions."""
        sizes, agreements = zip(*self.pairs[pair], strict=True)
        return Difference(mean(sizes), mean(agreements))


class Average(NamedTuple):
    """Mean metrics of a number of clips."""

    clips: int
    right: int  # clips whose nearest ground truth is the prompted motion
    first_frame: float
    warp: float
    copy: float
    sharpness: float
    seconds: float

    @property
    def gain(self) -> float:
        """Gain over copying the first frame, in decibels."""
        return self.warp - self.copy


class Line(NamedTuple):
    """One threshold of the bar: the minimum required, and the worst value found."""

    name: str
    least: float
    found: float

    @property
    def met(self) -> bool:
        """True if the value reaches the threshold."""
        return self.found >= self.least


def judge(model: LoadedModel, picture: Tensor, setting: Setting, *, photograph: bool) -> Report:
    """Generate all judged motions of a picture larger than the frame, and compare them."""
    true = {motion: truth(picture, motion, setting) for motion in JUDGED}
    image = to_image(true[Motion.STILL][0])
    made: dict[Motion, Tensor] = {}
    clips = []
    for motion in JUDGED:
        began = time.process_time()
        made[motion] = generate_clip(model, image, PROMPTS[motion], setting)
        seconds = time.process_time() - began
        clips.append(_compare(made[motion], true, motion, setting, seconds, photograph))
    pairs = {(one, other): [_differ(made, true, one, other)] for one, other in OPPOSITES}
    return Report(clips, pairs)


def together(reports: list[Report]) -> Report:
    """Merge the reports of several pictures."""
    pairs = {pair: [d for report in reports for d in report.pairs[pair]] for pair in OPPOSITES}
    return Report([clip for report in reports for clip in report.clips], pairs)


def bar(report: Report) -> list[Line]:
    """Compare with the thresholds: means over pictures, for the worst motion or pair."""
    motions_made = [report.of(motion) for motion in JUDGED]
    moving = [report.of(motion) for motion in JUDGED if motion is not Motion.STILL]
    whole = average(report.clips)
    photographs = [clip.first_frame for clip in report.clips if clip.photograph]
    sizes = [report.between(pair).size for pair in OPPOSITES]
    return [
        Line("frame 0, worst photograph, dB", 25, min(photographs)),
        Line("nearest true warp is the prompted one, share", 0.95, whole.right / whole.clips),
        Line("size of the difference of opposites", 0.8, min(sizes)),
        Line("gain over copying frame 0, dB", 5, min(motion.gain for motion in moving)),
        Line("sharpness of the last frame", 0.7, min(m.sharpness for m in motions_made)),
    ]


def average(clips: list[ClipScore]) -> Average:
    """Average the metrics of some clips."""
    return Average(
        len(clips),
        sum(clip.nearest is clip.motion for clip in clips),
        mean([clip.first_frame for clip in clips]),
        mean([clip.warp for clip in clips]),
        mean([clip.copy for clip in clips]),
        mean([clip.sharpness for clip in clips]),
        mean([clip.seconds for clip in clips]),
    )


def _compare(
    made: Tensor,
    true: dict[Motion, Tensor],
    motion: Motion,
    setting: Setting,
    seconds: float,
    photograph: bool,
) -> ClipScore:
    target, mask = true[motion], seen(motion, setting)
    last = inner(made[-1])
    return ClipScore(
        photograph=photograph,
        motion=motion,
        nearest=nearest(made, true),
        first_frame=decibels(made[:1], target[:1], mask[:1]),
        warp=decibels(made[1:], target[1:], mask[1:]),
        copy=decibels(target[:1].expand_as(target[1:]), target[1:], mask[1:]),
        sharpness=gradient_energy(last) / gradient_energy(inner(target[-1])),
        seconds=seconds,
    )


def nearest(made: Tensor, true: dict[Motion, Tensor]) -> Motion:
    """Return the motion whose ground truth has the nearest last frame."""
    last = inner(made[-1])
    distance = {other: float((last - inner(true[other][-1])).pow(2).mean()) for other in JUDGED}
    return min(distance, key=lambda other: distance[other])


def _differ(
    made: dict[Motion, Tensor], true: dict[Motion, Tensor], one: Motion, other: Motion
) -> Difference:
    found, target = inner(made[one] - made[other]), inner(true[one] - true[other])
    size = float(found.pow(2).mean().sqrt() / target.pow(2).mean().sqrt())
    return Difference(size, float((found * target).sum() / target.pow(2).sum()))


def decibels(first: Tensor, second: Tensor, mask: Tensor | None = None) -> float:
    """Compute the PSNR of clips (frames, 3, height, width) in -1..1, over the mask if given."""
    error = ((first - second) / 2).pow(2)
    if mask is None:
        mask = torch.ones_like(error[:, :1])
    share = (error * mask).sum() / (mask.sum() * first.shape[1])
    return float(-10 * torch.log10(share + 1e-10))


def inner(clip: Tensor) -> Tensor:
    """Crop a clip to the part that stays visible in every motion."""
    edge = int(1.2 * motions.reach(*clip.shape[-2:])) + 2
    return clip[..., edge:-edge, edge:-edge]


def gradient_energy(frame: Tensor) -> float:
    """Return the mean square of the differences between neighbouring pixels."""
    across, down = frame.diff(dim=-1), frame.diff(dim=-2)
    return float(across.pow(2).mean() + down.pow(2).mean())


def mean(values: list[float] | tuple[float, ...]) -> float:
    """Return the mean of at least one value."""
    return sum(values) / len(values)
