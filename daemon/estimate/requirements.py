"""Requirements table: memory and duration of each preset in each mode.

Predictions are corrected by measurements on this host, if there are any. `i2vd bench memory` fills
the same table with its own measurements.
"""

import random
from collections.abc import Sequence

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from daemon.config.settings import Settings
from daemon.estimate.duration import DurationEstimator
from daemon.estimate.estimator import Estimator
from daemon.estimate.memory import MemoryEstimator
from pipeline.memory import ladder
from pipeline.memory.dimensions import PUBLISHED, dimensions_of
from pipeline.memory.modes import Mode, Rung
from pipeline.memory.peak_memory import peak_memory, required_memory
from pipeline.request.presets import I2VGEN_XL, Family, family_of
from pipeline.request.spec import Request, Spec, resolve

MIN_STEPS = 10
"""Steps of a clip that only measures memory, which does not depend on them."""


class Requirement(BaseModel):
    """One preset in one mode."""

    preset: str
    mode: Mode
    exact: bool
    predicted_bytes: int
    measured_bytes: int | None
    seconds: float | None
    fits: bool
    """True if the required memory is within the card or `max_vram`."""
    outcome: str | None = None
    """Why the measurement failed; None if it did not."""


def predicted(
    model: str, presets: Sequence[str], card: int | None, dtype: str = "float16"
) -> list[Requirement]:
    """Return a row for each preset and mode by the formula, for a GPU with `card` bytes."""
    dimensions = PUBLISHED if model == I2VGEN_XL.name else dimensions_of(model)
    family = I2VGEN_XL if model == I2VGEN_XL.name else family_of(model)
    rows = []
    for name in presets:
        spec = spec_of(name, family)
        for mode in ladder.modes(lossy=True):
            peak = peak_memory(spec, rung_of(spec, mode), dimensions, dtype)
            rows.append(
                Requirement(
                    preset=name,
                    mode=mode,
                    exact=mode.exact,
                    predicted_bytes=peak.most,
                    measured_bytes=None,
                    seconds=None,
                    fits=card is None or required_memory(peak, mode, None, gpu=True) <= card,
                )
            )
    return rows


def presets_of(model: str) -> list[str]:
    """Return the names of a model's presets, smallest first."""
    family = I2VGEN_XL if model == I2VGEN_XL.name else family_of(model)
    return list(family.presets)


def known(
    settings: Settings, memory: MemoryEstimator | None, durations: DurationEstimator | None
) -> list[Requirement]:
    """Return a row for each preset and mode of the configured model, with its measurements."""
    family = family_of(settings.model.name)
    estimator = Estimator(settings, memory)
    rows = []
    for name, preset in family.presets.items():
        spec = spec_of(name, family, steps=preset.steps)
        for mode in ladder.modes(lossy=settings.model.fp8):
            rung = rung_of(spec, mode)
            seconds = durations.seconds(spec, mode) if durations else None
            rows.append(
                Requirement(
                    preset=name,
                    mode=mode,
                    exact=mode.exact,
                    predicted_bytes=estimator.predicted(rung, spec),
                    measured_bytes=estimator.measured(rung, spec),
                    seconds=None if seconds is None else round(seconds, 1),
                    fits=estimator.fits(rung, spec),
                )
            )
    return rows


def spec_of(preset: str, family: Family, steps: int = MIN_STEPS) -> Spec:
    """Return a Spec with the preset's size and length."""
    request = Request(prompt="panning left", preset=preset, steps=steps, seed=1)
    return resolve(request, family, source=(64, 64), sha256="0" * 64, rng=random.Random(0))


def rung_of(spec: Spec, mode: Mode) -> Rung:
    """Return the rung of a clip in a mode, at the requested size."""
    return Rung(mode, spec.width, spec.height, spec.frames)


def show(rows: Sequence[Requirement], console: Console) -> None:
    """Print the table; GB are 10^9 bytes."""
    table = Table("preset", "mode", "exact", "predicted GB", "measured GB", "seconds", "fits")
    for row in rows:
        table.add_row(
            row.preset,
            row.mode,
            "yes" if row.exact else "no",
            f"{row.predicted_bytes / 1e9:.3f}",
            "-" if row.measured_bytes is None else f"{row.measured_bytes / 1e9:.3f}",
            "-" if row.seconds is None else f"{row.seconds:.1f}",
            "yes" if row.fits else "no",
        )
    console.print(table)
    for row in rows:
        if row.outcome:
            console.print(f"{row.preset}, {row.mode}: {row.outcome}", markup=False)
