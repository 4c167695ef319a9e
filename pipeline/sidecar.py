"""Sidecar: the JSON record beside every clip, enough to generate the same clip again.

Versioned. Its JSON Schema is `sidecar.schema.json` beside this file, written by
`python -m pipeline.sidecar`. Writing sidecars to disk is the daemon's.
"""

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

from pipeline.children.generation import Clip, StepDown
from pipeline.children.protocol import Dtype, Output, Stage
from pipeline.memory.modes import Mode, Rung
from pipeline.quality import Measurements
from pipeline.request.presets import Speed
from pipeline.request.sampling_plan import sampling_plan
from pipeline.request.spec import Sampler, Spacing, Spec

SCHEMA_FILE = Path(__file__).with_name("sidecar.schema.json")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Part):
    """Source picture: `path` inside its inbox, size in bytes, width and height in pixels."""

    path: str
    sha256: str
    size: int
    width: int
    height: int
    caption: str = ""


class AppliedRule(_Part):
    """Rule that matched the picture, and the digest of all rules at that time."""

    name: str
    digest: str


class Tried(_Part):
    """Rung of the ladder; size in pixels."""

    width: int
    height: int
    frames: int
    mode: Mode


class Applied(Tried):
    """Settings that were used, after fallbacks, speed and a rejected first try."""

    seed: int
    dtype: Dtype
    speed: Speed
    steps: int
    sampler: Sampler
    spacing: Spacing | None = None
    """None: as the model's own configuration says."""


class Fallback(_Part):
    """One step down the ladder: the rung, and the stage in which memory ran out.

    Stage "predicted": skipped, because the rung needs more than was free. `seconds` is the
    duration of the try.
    """

    tried: Tried
    stage: Stage | Literal["predicted"]
    reason: str
    seconds: float = 0.0


class ModelRecord(_Part):
    """Model: the configured id, and the digest over all files that are loaded."""

    id: str
    weights: str


class QualityRecord(Measurements):
    """Measurements of the frames; `refused` is the reason if a first try was rejected."""

    refused: str | None


class Sidecar(_Part):
    """Complete record of a clip: the request, the settings used, and the result."""

    version: Literal[1] = 1
    generator: str
    ai_generated: Literal[True] = True
    job: str
    attempt: int
    created_at: AwareDatetime
    source: Source
    rule: AppliedRule | None
    requested: Spec
    applied: Applied
    degraded: bool
    fallbacks: tuple[Fallback, ...]
    quality: QualityRecord
    model: ModelRecord
    device: str
    versions: dict[str, str]
    seconds: dict[str, float]
    peak_memory: int | None
    unread: dict[str, str] = {}
    """Ends of the prompts beyond the text encoder's length, by their key: without effect."""
    output: Output


def compose_sidecar(
    clip: Clip,
    *,
    generator: str,
    job: str,
    attempt: int,
    created_at: datetime,
    source: Source,
    rule: AppliedRule | None,
    requested: Spec,
    earlier: Sequence[Fallback] = (),
) -> Sidecar:
    """Compose the sidecar of a finished clip; `earlier`: steps down of previous attempts."""
    made, loaded = clip.made, clip.loaded
    return Sidecar(
        generator=generator,
        job=job,
        attempt=attempt,
        created_at=created_at,
        source=source,
        rule=rule,
        requested=requested,
        applied=_applied(clip, requested),
        degraded=clip.rung.degrades(requested) or made.output.frames < requested.frames,
        fallbacks=(*earlier, *map(fallback, clip.steps_down)),
        quality=QualityRecord(**made.measurements.model_dump(), refused=clip.refused),
        model=ModelRecord(id=loaded.model, weights=loaded.weights),
        device=loaded.device_name,
        versions=loaded.versions,
        seconds=made.seconds,
        peak_memory=made.peak_memory,
        unread=made.unread,
        output=made.output,
    )


def _applied(clip: Clip, requested: Spec) -> Applied:
    plan = sampling_plan(clip.as_made(requested))
    return Applied(
        **_tried(clip.rung).model_dump(),
        seed=clip.seed,
        dtype=clip.loaded.dtype,
        speed=clip.speed,
        steps=plan.steps,
        sampler=plan.sampler,
        spacing=plan.spacing,
    )


def fallback(step: StepDown) -> Fallback:
    """Convert a step down to its sidecar record."""
    return Fallback(
        tried=_tried(step.rung), stage=step.stage, reason=step.detail, seconds=step.seconds
    )


def _tried(rung: Rung) -> Tried:
    return Tried(width=rung.width, height=rung.height, frames=rung.frames, mode=rung.mode)


def schema() -> str:
    """Return the JSON Schema of a sidecar, as text."""
    return json.dumps(Sidecar.model_json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema())
    sys.stdout.write(f"wrote {SCHEMA_FILE}\n")
