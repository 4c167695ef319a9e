"""The ladder: what is tried, in which order, when memory runs out.

Data and pure functions, decided in the parent, so that the way down survives a child that the
kernel shot. First the modes that keep the pixels, then smaller sizes, then fewer frames.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline.mode import Mode
from pipeline.presets import Family
from pipeline.spec import Spec


@dataclass(frozen=True)
class Rung:
    """One way to try a clip: a mode, and a size in pixels and frames."""

    mode: Mode
    width: int
    height: int
    frames: int

    def degrades(self, spec: Spec) -> bool:
        """Whether the clip is smaller or shorter than asked."""
        return (self.width, self.height, self.frames) != (spec.width, spec.height, spec.frames)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, {self.frames} frames, {self.mode}"


def rungs(spec: Spec, family: Family) -> tuple[Rung, ...]:
    """The whole ladder of a Spec, first choice first; it never goes up and never repeats."""
    ladder = [Rung(mode, spec.width, spec.height, spec.frames) for mode in Mode]
    if spec.fallback == "auto":
        side = math.sqrt(spec.width * spec.height)
        for smaller in (s for s in family.sides if s < side):
            last = ladder[-1]
            width, height = _scaled(spec, smaller / side, family.multiple)
            if (width, height) != (last.width, last.height):
                ladder.append(replace(last, width=width, height=height))
    if spec.fallback != "never":
        ladder += [replace(ladder[-1], frames=n) for n in (24, 16, 8) if n < spec.frames]
    return tuple(ladder)


def _scaled(spec: Spec, factor: float, multiple: int) -> tuple[int, int]:
    def near(pixels: int) -> int:
        return min(pixels, max(multiple, round(pixels * factor / multiple) * multiple))

    return near(spec.width), near(spec.height)


def first_that_fits(
    ladder: tuple[Rung, ...], budget: int | None, peak: Callable[[Rung], int]
) -> int:
    """Index of the first rung whose predicted peak is within `budget` bytes.

    Without a budget the first rung; when none fits the last, for a prediction is not a proof.
    """
    if budget is None:
        return 0
    return next((i for i, rung in enumerate(ladder) if peak(rung) <= budget), len(ladder) - 1)
