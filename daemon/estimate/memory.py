"""The forecast: what a clip needs on a rung, corrected by what clips really took here.

For each card, model, versions and type the newest measurement of each shape of clip is kept. A mode
is as much off as it ever was in one of them; that memory ran out where the forecast said that it
would not is a measurement too, but only for a day, since another process may have been the cause.
"""

from typing import NamedTuple

import sqlalchemy as sa

from daemon.jobs.database import Database
from daemon.jobs.schema import peaks
from pipeline.children.generation import Clip, StepDown
from pipeline.children.protocol import Loaded
from pipeline.memory import ladder
from pipeline.memory.dimensions import dimensions_of
from pipeline.memory.model import bytes_of, largest_peak, peak_memory, required_memory
from pipeline.memory.modes import Mode, Rung
from pipeline.request.spec import Spec

_DAY_SECONDS = 86400.0
_HALF = "float16"
_THRIFTIEST = ladder.modes()[-1]
_LIBRARIES = ("torch", "diffusers")
"""Those whose version changes how much memory is taken."""


class Setup(NamedTuple):
    """What a measurement holds for."""

    card: str
    model: str
    weights: str
    versions: str
    dtype: str

    @classmethod
    def of(cls, loaded: Loaded) -> "Setup":
        """The one that a worker has."""
        versions = " ".join(f"{name} {loaded.versions.get(name, '')}" for name in _LIBRARIES)
        return cls(loaded.device_name, loaded.model, loaded.weights, versions, loaded.dtype)


class MemoryEstimator:
    """Tells what clips of one model need, and learns from those that were made."""

    def __init__(self, database: Database, model: str) -> None:
        self._database = database
        self._dimensions = dimensions_of(model)

    def predicted(self, rung: Rung, spec: Spec, dtype: str) -> int:
        """Bytes that live at once at most, by the formula alone."""
        return peak_memory(spec, rung, self._dimensions, dtype).most

    def needs(self, rung: Rung, spec: Spec, loaded: Loaded) -> int:
        """Bytes that must be free for a clip, as far as is known here."""
        predicted = peak_memory(spec, rung, self._dimensions, loaded.dtype)
        correction = self.correction(Setup.of(loaded), rung.mode)
        return required_memory(
            predicted, rung.mode, correction, gpu=loaded.device.startswith("cuda")
        )

    def correction(self, setup: Setup, mode: Mode) -> float | None:
        """Measured by predicted, as it was worst; None before anything was measured."""
        here = sa.and_(*(peaks.c[key] == value for key, value in setup._asdict().items()))
        ratio = sa.cast(peaks.c.measured, sa.Float) / peaks.c.predicted
        counts = ~peaks.c.at_least | (peaks.c.at > self._database.now - _DAY_SECONDS)
        query = sa.select(sa.func.max(ratio)).where(here, peaks.c.mode == mode, counts)
        with self._database.read() as db:
            found = db.scalar(query)
        return None if found is None else float(found)

    def minimum(self, spec: Spec) -> int:
        """What a clip needs as it was asked, in the thriftiest way and in half precision: bytes.

        It is told of jobs, to be compared with what devices `reach`.
        """
        return self.predicted(Rung(_THRIFTIEST, spec.width, spec.height, spec.frames), spec, _HALF)

    def limit(self, memory: int, device: str, dtype: str, loaded: Loaded | None) -> int:
        """The most of which a clip fits on a device with so much memory, as far as is known.

        Raises QueueUnavailable.
        """
        correction = self.correction(Setup.of(loaded), _THRIFTIEST) if loaded else None
        found = largest_peak(memory, _THRIFTIEST, correction, gpu=device.startswith("cuda"))
        return found * bytes_of(_HALF) // bytes_of(dtype)

    def newest(self, model: str, dtype: str) -> Setup | None:
        """The setup in which a model was measured last."""
        columns = [peaks.c[key] for key in Setup._fields]
        query = sa.select(*columns).where(peaks.c.model == model, peaks.c.dtype == dtype)
        with self._database.read() as db:
            row = db.execute(query.order_by(peaks.c.at.desc()).limit(1)).first()
        return Setup(*row) if row else None

    def measured(self, setup: Setup, rung: Rung, spec: Spec) -> int | None:
        """Bytes that such a clip took, if the newest of its shape was such a one.

        A speed that keeps features needs more: so the prediction must have been the same.
        """
        shape = _shape(rung, spec.guided)
        query = sa.select(peaks.c.measured).where(
            ~peaks.c.at_least,
            peaks.c.predicted == self.predicted(rung, spec, setup.dtype),
            *(peaks.c[key] == value for key, value in (setup._asdict() | shape).items()),
        )
        with self._database.read() as db:
            return db.scalar(query)

    def record(self, clip: Clip, spec: Spec) -> float | None:
        """Take in what a clip took; predicted by measured, where it was measured."""
        if clip.made.peak_memory is None:
            return None
        predicted = self.predicted(clip.rung, clip.as_made(spec), clip.loaded.dtype)
        self._keep(clip.loaded, clip.rung, spec, predicted, clip.made.peak_memory, at_least=False)
        return predicted / clip.made.peak_memory

    def record_failure(self, step: StepDown, spec: Spec, loaded: Loaded) -> None:
        """Take in that memory ran out where it was known how much there was."""
        if step.room is not None and step.stage != "forecast":
            predicted = self.predicted(step.rung, spec, loaded.dtype)
            self._keep(loaded, step.rung, spec, predicted, step.room, at_least=True)

    def _keep(
        self,
        loaded: Loaded,
        rung: Rung,
        spec: Spec,
        predicted: int,
        measured: int,
        *,
        at_least: bool,
    ) -> None:
        key = Setup.of(loaded)._asdict() | _shape(rung, spec.guided)
        same = sa.and_(*(peaks.c[name] == value for name, value in key.items()))
        found = {"predicted": predicted, "measured": measured, "at_least": at_least}
        with self._database.write() as db:
            db.execute(peaks.delete().where(same))
            db.execute(peaks.insert().values(**key, **found, at=self._database.now))


def _shape(rung: Rung, guided: bool) -> dict[str, object]:
    size = {"width": rung.width, "height": rung.height, "frames": rung.frames}
    return {"mode": str(rung.mode), "guided": guided, **size}
