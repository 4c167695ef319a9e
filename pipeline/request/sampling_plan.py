"""Sampling plan: which steps are computed, guided, or reuse cached features, by speed.

A speed is a set of savings, and each saving works without the others. README.md has the cost of
each. The worker samples by this plan, and the daemon estimates durations from it.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from pipeline.request.presets import Speed
from pipeline.request.spec import Sampler, Spacing, Spec

Saving = Literal["steps", "guidance_interval", "feature_cache"]
"""Fewer steps; guidance only in the first steps; reuse of the deeper levels' features."""

SAVINGS: dict[Speed, tuple[Saving, ...]] = {
    "exact": (),
    "balanced": ("steps", "guidance_interval"),
    "fast": get_args(Saving),
}

_STEP_SHARE = 0.5
"""Share of the requested steps, with a second-order solver and trailing spacing."""
_MIN_STEPS = 10
"""Minimum number of steps, if at least as many are requested."""
_GUIDED_SHARE = 0.6
"""Share of the steps with guidance, from the first: they determine motion and layout."""
_CACHE_INTERVAL = 3
"""Cache interval in steps: the first computes deep features, the others reuse them."""
SHALLOW_LEVELS = 0.38
"""Share of a prediction that remains with cached features, counted; a test repeats it."""


@dataclass(frozen=True)
class SamplingStep:
    """One step. `guided`: with guidance. `fresh`: computes its deep features itself."""

    guided: bool
    fresh: bool

    @property
    def work(self) -> float:
        """Work, in full predictions of one guidance branch."""
        return (1 + self.guided) * (1.0 if self.fresh else SHALLOW_LEVELS)


@dataclass(frozen=True)
class SamplingPlan:
    """Solver and steps with which a clip is sampled."""

    sampler: Sampler
    spacing: Spacing | None
    sampling_steps: tuple[SamplingStep, ...]

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.sampling_steps)

    @property
    def reuses_features(self) -> bool:
        """Return True if deep features are cached from one step for the next."""
        return any(not step.fresh for step in self.sampling_steps)

    @property
    def work(self) -> float:
        """Work, in full predictions of one guidance branch."""
        return sum(step.work for step in self.sampling_steps)

    def remaining_ratio(self, done: int) -> float:
        """Return the work after `done` steps (at least 1), divided by the work of these."""
        before = sum(step.work for step in self.sampling_steps[:done])
        return (self.work - before) / before


def sampling_plan(spec: Spec) -> SamplingPlan:
    """Return the plan of a clip at its Spec's speed."""
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
    """Return the plan of a clip with these savings and the requested values."""
    if "steps" in savings:
        steps = max(min(steps, _MIN_STEPS), math.ceil(_STEP_SHARE * steps))
        sampler, spacing = "dpm++2m" if sampler == "ddim" else sampler, "trailing"
    guided_steps = 0
    if guided:
        guided_steps = math.ceil(_GUIDED_SHARE * steps) if "guidance_interval" in savings else steps
    interval = _CACHE_INTERVAL if "feature_cache" in savings else 1
    plan = (
        SamplingStep(
            n < guided_steps, (n if n < guided_steps else n - guided_steps) % interval == 0
        )
        for n in range(steps)
    )
    return SamplingPlan(sampler, spacing, tuple(plan))
