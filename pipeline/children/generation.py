"""Generation request and its result: a clip in staging, or a failure.

Data only; generator.py produces the results.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.children.exit_reasons import ChildFailure
from pipeline.children.protocol import ClipDone, Loaded, Stage
from pipeline.memory.modes import Rung
from pipeline.request.presets import Speed
from pipeline.request.spec import Spec


@dataclass(frozen=True)
class GenerationRequest:
    """Request for one clip: `picture` is the clean PNG, `staging` an empty private folder.

    `needs` returns the bytes that the clip needs on a rung with the loaded model.
    """

    job: str
    spec: Spec
    ladder: tuple[Rung, ...]
    needs: Callable[[Rung, Loaded], int]
    picture: Path
    staging: Path


@dataclass(frozen=True)
class StepDown:
    """Fallback to the next rung: memory ran out on `rung` in `stage` after `seconds`.

    In stage "predicted" the rung was skipped, because it needs more than `free`, the free bytes.
    """

    rung: Rung
    stage: Stage | Literal["predicted"]
    detail: str
    seconds: float = 0.0
    free: int | None = None


@dataclass(frozen=True)
class Clip:
    """Clip in staging: the worker's result, its model and rung, and the steps down to it.

    `refused` is the reason if the quality check rejected the first try. `seed` and `speed` may
    then differ from the request.
    """

    made: ClipDone
    loaded: Loaded
    rung: Rung
    seed: int
    speed: Speed
    steps_down: tuple[StepDown, ...]
    refused: str | None = None

    def as_made(self, requested: Spec) -> Spec:
        """Return the requested Spec with the speed that was used."""
        return requested.model_copy(update={"speed": self.speed})


Kind = Literal["failed", "quality", "lost", "load", "memory", "disk", "cancelled", "ended"]


@dataclass(frozen=True)
class GenerationFailure:
    """Failed generation; `retry` is True if another try may help.

    - "quality": the quality check rejected two tries; the last clip may be in staging.
    - "lost": the child ended while it had this clip.
    - "load": no child could load the model, which is not the clip's fault.
    - "disk": the staging folder is not writable, which is not the clip's fault either.
    - "ended": i2vd itself stopped the generation.
    """

    kind: Kind
    reason: str
    retry: bool
    free: int | None = None
    """Free bytes, if memory ran out on a device that counts them."""
    child_failure: ChildFailure | None = None
    """Failure of the worker, the same for each clip that it had."""
