"""What each preset needs in each mode: the table that users want to know before they begin.

Predicted, corrected by what was measured here where that is known; what bench.py measures takes the
same form.
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
from pipeline.memory.model import peak_memory, required_memory
from pipeline.memory.modes import Mode, Rung
from pipeline.request.presets import I2VGEN_XL, Family, family_of
from pipeline.request.spec import Request, Spec, resolve

MIN_STEPS = 10
"""Steps of a clip that is only to be measured: memory does not depend on them."""


class Requirement(BaseModel):
    """One preset in one mode. `fits`: whether what is known is within the card or `max_vram`."""

    preset: str
    mode: Mode
    exact: bool
    predicted_bytes: int
    measured_bytes: int | None
    seconds: float | None
    fits: bool
    outcome: str | None = None
    """Why nothing was measured, where it was tried."""


def predicted(
    model: str, presets: Sequence[str], card: int | None, dtype: str = "float16"
) -> list[Requirement]:
    """A row for each preset and mode by the formula alone, on a GPU with `card` bytes."""
    anatomy = PUBLISHED if model == I2VGEN_XL.name else dimensions_of(model)
    family = I2VGEN_XL if model == I2VGEN_XL.name else family_of(model)
    rows = []
    for name in presets:
        spec = spec_of(name, family)
        for mode in ladder.modes(lossy=True):
            found = peak_memory(spec, rung_of(spec, mode), anatomy, dtype)
            rows.append(
                Requirement(
                    preset=name,
                    mode=mode,
                    exact=mode.exact,
                    predicted_bytes=found.most,
                    measured_bytes=None,
                    seconds=None,
                    fits=card is None or required_memory(found, mode, None, gpu=True) <= card,
                )
            )
    return rows


def presets_of(model: str) -> list[str]:
    """The names of a model's presets, smallest first."""
    family = I2VGEN_XL if model == I2VGEN_XL.name else family_of(model)
    return list(family.presets)


def known(
    settings: Settings, forecast: MemoryEstimator | None, pace: DurationEstimator | None
) -> list[Requirement]:
    """A row for each preset and mode of the configured model, with what is known of clips made."""
    family = family_of(settings.model.name)
    estimator = Estimator(settings, forecast)
    rows = []
    for name, preset in family.presets.items():
        spec = spec_of(name, family, steps=preset.steps)
        for mode in ladder.modes(lossy=settings.model.fp8):
            rung = rung_of(spec, mode)
            seconds = pace.seconds(spec, mode) if pace else None
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
    """Of the preset's size and length."""
    asked = Request(prompt="panning left", preset=preset, steps=steps, seed=1)
    return resolve(asked, family, source=(64, 64), sha256="0" * 64, rng=random.Random(0))


def rung_of(spec: Spec, mode: Mode) -> Rung:
    """A clip as it is asked, in a mode."""
    return Rung(mode, spec.width, spec.height, spec.frames)


def show(rows: Sequence[Requirement], console: Console) -> None:
    """A table for a person; GB are 10^9 bytes."""
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
