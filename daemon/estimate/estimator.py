"""The estimate: what a clip would cost on this machine, and on which rung it would begin."""

from pydantic import BaseModel

from daemon.config.settings import Settings
from daemon.devices import devices, most_bytes
from daemon.estimate.duration import Pace
from daemon.estimate.memory import Forecast
from pipeline.memory import ladder
from pipeline.memory.dimensions import anatomy_of
from pipeline.memory.model import need, peak_of
from pipeline.memory.modes import Mode, Rung
from pipeline.request.presets import family_of
from pipeline.request.sampling_plan import course
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

    def __init__(self, settings: Settings, forecast: Forecast | None) -> None:
        model = settings.model
        used = devices(model.devices)
        device = used[0] if used else "cuda"  # of another host
        self.dtype = model.dtype_on(device)
        self._family = family_of(model.name)
        self._anatomy = anatomy_of(model.name)
        self._lossy = model.fp8
        self._gpu = device.startswith("cuda")
        self.room = most_bytes(device, model.max_vram) if used else None
        self._forecast = forecast
        self.setup = forecast.newest(model.name, self.dtype) if forecast else None

    def predicted(self, rung: Rung, spec: Spec) -> int:
        """Bytes that live at once at most, corrected by what was measured."""
        found = peak_of(spec, rung, self._anatomy, self.dtype)
        return int(found.most * (self._correction(rung.mode) or 1.0))

    def needs(self, rung: Rung, spec: Spec) -> int:
        """Bytes that must be free."""
        found = peak_of(spec, rung, self._anatomy, self.dtype)
        return need(found, rung.mode, self._correction(rung.mode), gpu=self._gpu)

    def fits(self, rung: Rung, spec: Spec) -> bool:
        """Whether it fits into the device when nothing else is there, as far as is known."""
        return self.room is None or self.needs(rung, spec) <= self.room

    def measured(self, rung: Rung, spec: Spec) -> int | None:
        """Bytes that such a clip took when it was made here last."""
        if self._forecast is None or self.setup is None:
            return None
        return self._forecast.measured(self.setup, rung, spec)

    def of(self, spec: Spec, pace: Pace | None) -> Estimate:
        """What this clip would cost."""

        def predicted(rung: Rung) -> int:
            return self.predicted(rung, spec)

        def needs(rung: Rung) -> int:
            return self.needs(rung, spec)

        rungs = ladder.rungs(spec, self._family, predicted, lossy=self._lossy)
        first = rungs[ladder.first_that_fits(rungs, self.room, needs)]
        asked = (spec.width, spec.height, spec.frames)
        return Estimate(
            bytes=predicted(rungs[0]),
            room=self.room,
            mode=first.mode,
            width=first.width,
            height=first.height,
            frames=first.frames,
            degraded=(first.width, first.height, first.frames) != asked,
            steps=course(spec).steps,
            seconds=pace.seconds(spec) if pace else None,
        )

    def _correction(self, mode: Mode) -> float | None:
        if self._forecast is None or self.setup is None:
            return None
        return self._forecast.correction(self.setup, mode)
