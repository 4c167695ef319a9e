"""Dry run: the rule, settings, mistakes and cost that intake would find for a picture.

It shows the plan that intake makes, and queues nothing.
"""

from pydantic import BaseModel

from daemon.estimate.duration import DurationEstimator
from daemon.estimate.estimator import Estimate, Estimator
from daemon.intake.intake import Plan
from pipeline.checkpoint.text_limit import TextLimit
from pipeline.image.framing import kept_fraction
from pipeline.request.spec import EMPTY_PROMPT, SeedChoice, Spec


class DryRun(BaseModel):
    """The plan of a picture, for a person or as JSON."""

    rejected_by: list[tuple[str, str]] = []
    """Earlier rules, each with the reason why it does not match."""
    rule: str | None = None
    mistakes: list[str] = []
    warnings: list[str] = []
    specs: list[Spec] = []
    seed: SeedChoice = "random"
    """How the seed is chosen: "random" when the picture is taken, then those in `specs` are
    examples; from its "content"; or that number."""
    unread: dict[str, str] = {}
    """Ends of the first clip's prompts beyond the text encoder's length, by their key."""
    kept: float = 1.0
    """Share of the picture that the framing keeps."""
    estimate: Estimate | None = None
    """Estimate for the first clip."""


def dry_run(
    planned: Plan,
    source: tuple[int, int],
    estimator: Estimator,
    durations: DurationEstimator | None,
    limit: TextLimit | None,
) -> DryRun:
    """Describe a plan for a picture of `source` = (width, height) pixels; `limit` of prompts."""
    found = DryRun(
        rejected_by=list(planned.choice.rejected),
        rule=planned.choice.rule.name if planned.choice.rule else None,
        mistakes=[str(mistake) for mistake in planned.mistakes],
        warnings=[str(warning) for warning in planned.warnings],
        specs=list(planned.specs),
        seed=planned.seed,
    )
    if planned.specs:
        spec = planned.specs[0]
        found.kept = kept_fraction(source, spec.width, spec.height, spec.framing)
        found.estimate = estimator.estimate(spec, durations)
        if not spec.prompt:
            found.warnings.append(f"prompt: {EMPTY_PROMPT}")
        if limit is not None:
            found.unread = limit.unread_of(spec)
            found.warnings += [
                f"{key}: longer than the {limit.length} tokens that the model reads; no effect "
                f"has: {text}"
                for key, text in found.unread.items()
            ]
    return found
