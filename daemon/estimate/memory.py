"""Memory estimates: predicted peak memory of a rung, corrected by measured peaks.

Stores the newest measurement of each clip shape for each card, model, library versions and dtype.
The correction of a mode is the worst ratio of measured to predicted bytes in them. Running out of
memory is a measurement too (a lower bound), but only for a day, because another process may have
caused it.
"""

from typing import NamedTuple

import sqlalchemy as sa

from daemon.jobs.database import Database
from daemon.jobs.schema import peaks
from pipeline.children.generation import Clip, StepDown
from pipeline.children.protocol import Loaded
from pipeline.memory import ladder
from pipeline.memory.dimensions import dimensions_of
from pipeline.memory.modes import Mode, Rung
from pipeline.memory.peak_memory import bytes_of, largest_peak, peak_memory, required_memory
from pipeline.request.spec import Spec

_DAY_SECONDS = 86400.0
_HALF_PRECISION = "float16"
_SMALLEST_MODE = ladder.modes()[-1]
_LIBRARIES = ("torch", "diffusers")
"""The libraries whose version affects memory use."""


class Setup(NamedTuple):
    """The conditions under which a measurement is valid."""

    card: str
    model: str
    weights: str
    versions: str
    dtype: str

    @classmethod
    def of(cls, loaded: Loaded) -> "Setup":
        """Return the setup of a worker."""
        versions = " ".join(f"{name} {loaded.versions.get(name, '')}" for name in _LIBRARIES)
        return cls(loaded.device_name, loaded.model, loaded.weights, versions, loaded.dtype)


class MemoryEstimator:
    """Predicts the memory of one model's clips, and learns from measured peaks."""

    def __init__(self, database: Database, model: str) -> None:
        self._database = database
        self._dimensions = dimensions_of(model)

    def predicted(self, rung: Rung, spec: Spec, dtype: str) -> int:
        """Return the peak memory in bytes by the formula, without correction."""
        return peak_memory(spec, rung, self._dimensions, dtype).most

    def needs(self, rung: Rung, spec: Spec, loaded: Loaded) -> int:
        """Return the bytes that must be free for a clip. Raises QueueUnavailable."""
        predicted = peak_memory(spec, rung, self._dimensions, loaded.dtype)
        correction = self.correction(Setup.of(loaded), rung.mode)
        return required_memory(
            predicted, rung.mode, correction, gpu=loaded.device.startswith("cuda")
        )

    def correction(self, setup: Setup, mode: Mode) -> float | None:
        """Return the largest ratio of measured to predicted bytes; None before a measurement.

        Raises QueueUnavailable.
        """
        same_setup = sa.and_(*(peaks.c[key] == value for key, value in setup._asdict().items()))
        ratio = sa.cast(peaks.c.measured, sa.Float) / peaks.c.predicted
        is_valid = ~peaks.c.is_lower_bound | (peaks.c.at > self._database.now - _DAY_SECONDS)
        query = sa.select(sa.func.max(ratio)).where(same_setup, peaks.c.mode == mode, is_valid)
        with self._database.read() as db:
            found = db.scalar(query)
        return None if found is None else float(found)

    def minimum(self, spec: Spec) -> int:
        """Return the required memory of a job in bytes, to be compared with `limit`.

        It is the peak of the clip as requested, in the smallest mode and in half precision.
        """
        rung = Rung(_SMALLEST_MODE, spec.width, spec.height, spec.frames)
        return self.predicted(rung, spec, _HALF_PRECISION)

    def limit(self, memory: int, device: str, dtype: str, loaded: Loaded | None) -> int:
        """Return the largest `minimum` of a clip that fits into `memory` bytes of a device.

        Raises QueueUnavailable.
        """
        correction = self.correction(Setup.of(loaded), _SMALLEST_MODE) if loaded else None
        peak = largest_peak(memory, _SMALLEST_MODE, correction, gpu=device.startswith("cuda"))
        return peak * bytes_of(_HALF_PRECISION) // bytes_of(dtype)

    def newest(self, model: str, dtype: str) -> Setup | None:
        """Return the setup of the newest measurement of a model. Raises QueueUnavailable."""
        columns = [peaks.c[key] for key in Setup._fields]
        query = sa.select(*columns).where(peaks.c.model == model, peaks.c.dtype == dtype)
        with self._database.read() as db:
            row = db.execute(query.order_by(peaks.c.at.desc()).limit(1)).first()
        return Setup(*row) if row else None

    def measured(self, setup: Setup, rung: Rung, spec: Spec) -> int | None:
        """Return the newest measured peak of such a clip in bytes; None if there is none.

        Only a measurement with the same prediction counts: a speed with a feature cache needs more.
        """
        shape = _shape(rung, spec.guided)
        query = sa.select(peaks.c.measured).where(
            ~peaks.c.is_lower_bound,
            peaks.c.predicted == self.predicted(rung, spec, setup.dtype),
            *(peaks.c[key] == value for key, value in (setup._asdict() | shape).items()),
        )
        with self._database.read() as db:
            return db.scalar(query)

    def record(self, clip: Clip, spec: Spec) -> float | None:
        """Store the measured peak of a clip; return predicted / measured, None if not measured.

        Raises QueueUnavailable.
        """
        if clip.made.peak_memory is None:
            return None
        predicted = self.predicted(clip.rung, clip.as_made(spec), clip.loaded.dtype)
        self._store(
            clip.loaded, clip.rung, spec, predicted, clip.made.peak_memory, is_lower_bound=False
        )
        return predicted / clip.made.peak_memory

    def record_failure(self, step: StepDown, spec: Spec, loaded: Loaded) -> None:
        """Store that a rung ran out of memory, if the free memory is known.

        A rung that was only predicted not to fit is not a measurement. Raises QueueUnavailable.
        """
        if step.free is not None and step.stage != "predicted":
            predicted = self.predicted(step.rung, spec, loaded.dtype)
            self._store(loaded, step.rung, spec, predicted, step.free, is_lower_bound=True)

    def _store(
        self,
        loaded: Loaded,
        rung: Rung,
        spec: Spec,
        predicted: int,
        measured: int,
        *,
        is_lower_bound: bool,
    ) -> None:
        key = Setup.of(loaded)._asdict() | _shape(rung, spec.guided)
        same_key = sa.and_(*(peaks.c[name] == value for name, value in key.items()))
        values = {"predicted": predicted, "measured": measured, "is_lower_bound": is_lower_bound}
        with self._database.write() as db:
            db.execute(peaks.delete().where(same_key))
            db.execute(peaks.insert().values(**key, **values, at=self._database.now))


def _shape(rung: Rung, guided: bool) -> dict[str, object]:
    size = {"width": rung.width, "height": rung.height, "frames": rung.frames}
    return {"mode": str(rung.mode), "guided": guided, **size}
