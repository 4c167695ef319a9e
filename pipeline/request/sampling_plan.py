"""Speeds: what of a clip's work is left out where it is wanted in less time than exactly.

Each saving is a small named thing and can be had alone; a speed is some of them. None is free: what
each costs stands in README.md. The worker does as it stands here, and the daemon counts by it.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from pipeline.request.presets import Speed
from pipeline.request.spec import Sampler, Spacing, Spec

Saving = Literal["steps", "interval", "deep"]
"""Fewer steps; guidance only at the first of them; what the deeper levels gave taken again."""

SAVINGS: dict[Speed, tuple[Saving, ...]] = {
    "exact": (),
    "balanced": ("steps", "interval"),
    "fast": get_args(Saving),
}

_STEPS = 0.5
"""Share of the steps that are made, by a solver of second order with trailing spacing."""
_FEWEST = 10
"""Steps that are made all the same, where so many are asked."""
_GUIDED = 0.6
"""Share of the steps that have guidance, from the first on: motion and layout are settled there."""
_EVERY = 3
"""Of so many steps the first makes deep features, which the others take."""
SHALLOW_LEVELS = 0.38
"""What is left to do of a prediction that takes them, as counted; a test counts again."""


@dataclass(frozen=True)
class SamplingStep:
    """One step: whether it has guidance, and whether it makes its deep features itself."""

    guided: bool
    fresh: bool

    @property
    def work(self) -> float:
        """In whole predictions for one branch of guidance."""
        return (1 + self.guided) * (1.0 if self.fresh else SHALLOW_LEVELS)


@dataclass(frozen=True)
class SamplingPlan:
    """How a clip is really sampled."""

    sampler: Sampler
    spacing: Spacing | None
    sampling_steps: tuple[SamplingStep, ...]

    @property
    def steps(self) -> int:
        """How many are made."""
        return len(self.sampling_steps)

    @property
    def reuses_features(self) -> bool:
        """Whether deep features are kept from one step for the next."""
        return any(not turn.fresh for turn in self.sampling_steps)

    @property
    def work(self) -> float:
        """In whole predictions for one branch of guidance."""
        return sum(turn.work for turn in self.sampling_steps)

    def remaining_ratio(self, made: int) -> float:
        """The work after so many steps, as a share of what these were; `made` is one or more."""
        before = sum(turn.work for turn in self.sampling_steps[:made])
        return (self.work - before) / before


def sampling_plan(spec: Spec) -> SamplingPlan:
    """The course of a clip at the speed that its Spec asks for."""
    return sampling_plan_with(
        SAVINGS[spec.speed],
        steps=spec.steps,
        guided=spec.guided,
        sampler=spec.sampler,
        spacing=spec.spacing,
    )


def sampling_plan_with(
    savings: Collection[Saving],
    *,
    steps: int,
    guided: bool,
    sampler: Sampler = "ddim",
    spacing: Spacing | None = None,
) -> SamplingPlan:
    """The course of a clip of which all else was asked, with these savings."""
    if "steps" in savings:
        steps = max(min(steps, _FEWEST), math.ceil(_STEPS * steps))
        sampler, spacing = "dpm++2m" if sampler == "ddim" else sampler, "trailing"
    led = 0
    if guided:
        led = math.ceil(_GUIDED * steps) if "interval" in savings else steps
    every = _EVERY if "deep" in savings else 1
    turns = (SamplingStep(n < led, (n if n < led else n - led) % every == 0) for n in range(steps))
    return SamplingPlan(sampler, spacing, tuple(turns))
