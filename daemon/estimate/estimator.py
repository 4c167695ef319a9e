"""The estimate: what a clip would cost on this machine, and on which rung it would begin."""

from pydantic import BaseModel

from daemon.config.settings import Settings
from daemon.devices import memory_limit, resolve_devices
from daemon.estimate.duration import DurationEstimator
from daemon.estimate.memory import MemoryEstimator
from pipeline.memory import ladder
from pipeline.memory.dimensions import dimensions_of
from pipeline.memory.model import peak_memory, required_memory
from pipeline.memory.modes import Mode, Rung
from pipeline.request.presets import family_of
from pipeline.request.sampling_plan import sampling_plan
from pipeline.request.spec import Spec


class Estimate(BaseModel):
    """Of one clip. `bytes` is what it needs as it is asked, on the fastest way."""

    bytes: int
    room: int | None
    """Bytes that a clip may have at most; None where they are not counted."""
    mode: Mode
    """How it would begin, with nothing else on the device."""
    width: int
    height: int
    frames: int
    degraded: bool
    """Whether that is less than asked."""
    steps: int
    """Those that are made at its speed."""
    seconds: float | None
    """None before a clip of the preset was made here."""


class Estimator:
    """Knows the first device, and what was measured on it where there is a `forecast`.

    On a host without one: a GPU that is large enough.
    """

    def __init__(self, settings: Settings, memory: MemoryEstimator | None) -> None:
        model = settings.model
        used = resolve_devices(model.devices)
        device = used[0] if used else "cuda"  # of another host
        self.dtype = model.dtype_on(device)
        self._family = family_of(model.name)
        self._dimensions = dimensions_of(model.name)
        self._lossy = model.fp8
        self._gpu = device.startswith("cuda")
        self.memory_limit = memory_limit(device, model.max_vram) if used else None
        self._memory = memory
        self.setup = memory.newest(model.name, self.dtype) if memory else None

    def predicted(self, rung: Rung, spec: Spec) -> int:
        """Bytes that live at once at most, corrected by what was measured."""
        found = peak_memory(spec, rung, self._dimensions, self.dtype)
        return int(found.most * (self._correction(rung.mode) or 1.0))

    def needs(self, rung: Rung, spec: Spec) -> int:
        """Bytes that must be free."""
        found = peak_memory(spec, rung, self._dimensions, self.dtype)
        return required_memory(found, rung.mode, self._correction(rung.mode), gpu=self._gpu)

    def fits(self, rung: Rung, spec: Spec) -> bool:
        """Whether it fits into the device when nothing else is there, as far as is known."""
        return self.memory_limit is None or self.needs(rung, spec) <= self.memory_limit

    def measured(self, rung: Rung, spec: Spec) -> int | None:
        """Bytes that such a clip took when it was made here last."""
        if self._memory is None or self.setup is None:
            return None
        return self._memory.measured(self.setup, rung, spec)

    def estimate(self, spec: Spec, durations: DurationEstimator | None) -> Estimate:
        """What this clip would cost."""

        def predicted(rung: Rung) -> int:
            return self.predicted(rung, spec)

        def needs(rung: Rung) -> int:
            return self.needs(rung, spec)

        rungs = ladder.rungs(spec, self._family, predicted, lossy=self._lossy)
        first = rungs[ladder.first_fitting(rungs, self.memory_limit, needs)]
        asked = (spec.width, spec.height, spec.frames)
        return Estimate(
            bytes=predicted(rungs[0]),
            room=self.memory_limit,
            mode=first.mode,
            width=first.width,
            height=first.height,
            frames=first.frames,
            degraded=(first.width, first.height, first.frames) != asked,
            steps=sampling_plan(spec).steps,
            seconds=durations.seconds(spec) if durations else None,
        )

    def _correction(self, mode: Mode) -> float | None:
        if self._memory is None or self.setup is None:
            return None
        return self._memory.correction(self.setup, mode)
