"""Cost estimates: memory, duration and first rung of a clip on this machine."""

from pydantic import BaseModel

from daemon.config.settings import Settings
from daemon.devices import memory_limit, resolve_devices
from daemon.estimate.duration import DurationEstimator
from daemon.estimate.memory import MemoryEstimator
from pipeline.memory import ladder
from pipeline.memory.dimensions import dimensions_of
from pipeline.memory.modes import Mode, Rung
from pipeline.memory.peak_memory import peak_memory, required_memory
from pipeline.request.presets import family_of
from pipeline.request.sampling_plan import sampling_plan
from pipeline.request.spec import Spec


class Estimate(BaseModel):
    """The estimated cost of one clip."""

    bytes: int
    """Peak memory of the clip as requested, in the fastest mode."""
    room: int | None
    """Memory limit of the device in bytes; None if it is not known."""
    mode: Mode
    """Mode of the first rung, if the device runs nothing else."""
    width: int
    height: int
    frames: int
    degraded: bool
    """True if size or frames are below the request."""
    steps: int
    """Denoising steps that the sampling plan computes."""
    seconds: float | None
    """None before the first clip of the preset."""


class Estimator:
    """Estimates costs on the first device, corrected by measurements if `memory` is given.

    A host without devices assumes a GPU without a memory limit.
    """

    def __init__(self, settings: Settings, memory: MemoryEstimator | None) -> None:
        model = settings.model
        devices = resolve_devices(model.devices)
        device = devices[0] if devices else "cuda"  # the jobs run on another host
        self.dtype = model.dtype_on(device)
        self._family = family_of(model.name)
        self._dimensions = dimensions_of(model.name)
        self._lossy = model.fp8
        self._gpu = device.startswith("cuda")
        self.memory_limit = memory_limit(device, model.max_vram) if devices else None
        self._memory = memory
        self.setup = memory.newest(model.name, self.dtype) if memory else None

    def predicted(self, rung: Rung, spec: Spec) -> int:
        """Return the predicted peak memory in bytes, corrected by measurements."""
        peak = peak_memory(spec, rung, self._dimensions, self.dtype)
        return int(peak.most * (self._correction(rung.mode) or 1.0))

    def needs(self, rung: Rung, spec: Spec) -> int:
        """Return the bytes that must be free."""
        peak = peak_memory(spec, rung, self._dimensions, self.dtype)
        return required_memory(peak, rung.mode, self._correction(rung.mode), gpu=self._gpu)

    def fits(self, rung: Rung, spec: Spec) -> bool:
        """Return True if the rung fits into the empty device, or its memory is not known."""
        return self.memory_limit is None or self.needs(rung, spec) <= self.memory_limit

    def measured(self, rung: Rung, spec: Spec) -> int | None:
        """Return the newest measured peak of such a clip in bytes; None if there is none."""
        if self._memory is None or self.setup is None:
            return None
        return self._memory.measured(self.setup, rung, spec)

    def estimate(self, spec: Spec, durations: DurationEstimator | None) -> Estimate:
        """Estimate the cost of a clip. Raises QueueUnavailable."""

        def predicted(rung: Rung) -> int:
            return self.predicted(rung, spec)

        def needs(rung: Rung) -> int:
            return self.needs(rung, spec)

        rungs = ladder.rungs(spec, self._family, predicted, lossy=self._lossy)
        first = rungs[ladder.first_fitting(rungs, self.memory_limit, needs)]
        requested = (spec.width, spec.height, spec.frames)
        return Estimate(
            bytes=predicted(rungs[0]),
            room=self.memory_limit,
            mode=first.mode,
            width=first.width,
            height=first.height,
            frames=first.frames,
            degraded=(first.width, first.height, first.frames) != requested,
            steps=sampling_plan(spec).steps,
            seconds=durations.seconds(spec) if durations else None,
        )

    def _correction(self, mode: Mode) -> float | None:
        if self._memory is None or self.setup is None:
            return None
        return self._memory.correction(self.setup, mode)
