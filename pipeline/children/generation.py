"""An order for a clip, and what comes of it: a clip in staging, or why there is none."""

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
    """What is to be made: `picture` is the clean PNG, `staging` an empty private folder.

    `needs` tells the bytes that a clip needs on a rung, with the model that is loaded.
    """

    job: str
    spec: Spec
    ladder: tuple[Rung, ...]
    needs: Callable[[Rung, Loaded], int]
    picture: Path
    staging: Path


@dataclass(frozen=True)
class StepDown:
    """Memory ran out on `rung` in `stage` after so many seconds; the next rung was tried.

    Or it was not even tried, stage "forecast", for too little is free. `room` is what was free.
    """

    rung: Rung
    stage: Stage | Literal["forecast"]
    detail: str
    seconds: float = 0.0
    room: int | None = None


@dataclass(frozen=True)
class Clip:
    """A clip in staging: what was made, by which model, on which rung, and the steps down.

    `refused` says why the gate refused the first try; `seed` and `speed` may be others than asked
    then.
    """

    made: ClipDone
    loaded: Loaded
    rung: Rung
    seed: int
    speed: Speed
    steps_down: tuple[StepDown, ...]
    refused: str | None = None

    def as_made(self, asked: Spec) -> Spec:
        """What was asked, at the speed at which it was made."""
        return asked.model_copy(update={"speed": self.speed})


Kind = Literal["failed", "spoilt", "lost", "load", "memory", "disk", "cancelled", "ended"]


@dataclass(frozen=True)
class GenerationFailure:
    """Why there is none; `retry` when another try may help.

    "spoilt": the gate refused two tries, and the last may lie in staging; "lost": the child was,
    while it had this clip; "load": there was none with a model in it, which is no fault of this
    clip's; "disk": its folder could not be written, which is none either; "ended": by ourselves.
    """

    kind: Kind
    reason: str
    retry: bool
    room: int | None = None
    """Bytes that were free, where memory was short and somebody counts them."""
    child_failure: ChildFailure | None = None
    """The loss of the worker, the same for each clip that was in it."""
