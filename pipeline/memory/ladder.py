"""Ladder: the ordered fallbacks (rungs) of a clip when memory runs out.

Data and pure functions, evaluated in the parent, so that the fallbacks survive a child that the
OOM killer ended. First the modes that keep the pixels, then smaller sizes, then fewer frames. The
bytes that a rung needs come from model.py.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from pipeline.memory.modes import Mode, Rung
from pipeline.request.presets import Family, Preset
from pipeline.request.spec import Spec

Needs = Callable[[Rung], int]
"""Function from a rung to the bytes that the clip needs on it."""


def rungs(spec: Spec, family: Family, needs: Needs, *, lossy: bool = False) -> tuple[Rung, ...]:
    """Return the ladder of a Spec, first choice first.

    Each rung needs less memory than the one before; rungs that would not help are left out.
    `lossy` allows the mode that changes the picture slightly.
    """
    ladder: list[Rung] = []
    for rung in _candidates(spec, family, lossy):
        if not ladder or needs(rung) < needs(ladder[-1]):
            ladder.append(rung)
    return tuple(ladder)


def _candidates(spec: Spec, family: Family, lossy: bool) -> Iterator[Rung]:
    for mode in modes(lossy=lossy):
        rung = Rung(mode, spec.width, spec.height, spec.frames)
        yield rung
    if spec.fallback == "auto":
        side = math.sqrt(spec.width * spec.height)
        for smaller in (s for s in family.sides if s < side):
            width, height = _scale(spec, smaller / side, family.multiple)
            rung = replace(rung, width=width, height=height)
            yield rung
    if spec.fallback != "never":
        for frames in (n for n in (24, 16, 8) if n < spec.frames):
            yield replace(rung, frames=frames)


def modes(*, lossy: bool = False) -> tuple[Mode, ...]:
    """Return the allowed modes, fastest first."""
    return tuple(mode for mode in Mode if mode.exact or lossy)


def _scale(spec: Spec, factor: float, multiple: int) -> tuple[int, int]:
    def round_to(pixels: int) -> int:
        return min(pixels, max(multiple, round(pixels * factor / multiple) * multiple))

    return round_to(spec.width), round_to(spec.height)


def first_fitting(ladder: tuple[Rung, ...], free: int | None, needs: Needs) -> int:
    """Return the index of the first rung that needs at most `free` bytes.

    Without a count (None) the first rung. If none fits the last, because a prediction is no proof.
    """
    if free is None:
        return 0
    return next((i for i, rung in enumerate(ladder) if needs(rung) <= free), len(ladder) - 1)


def advice(spec: Spec, family: Family, free: int | None, needs: Needs) -> str:
    """Return a hint for the user when memory did not suffice on the last rung."""
    smallest = {
        name: needs(Rung(list(Mode)[-1], preset.side, preset.side, preset.frames))
        for name, preset in family.presets.items()
        if _work(preset) < spec.width * spec.height * spec.frames
    }
    fitting = [name for name, need in smallest.items() if free is not None and need <= free]
    general = "free the device's memory, or raise `model.max_vram` where it is set"
    if fitting:
        best = max(fitting, key=lambda name: _work(family.presets[name]))
        return f"the preset {best!r} would fit ({smallest[best] / 1e9:.2f} GB); or {general}"
    if free is None:
        return f"choose a smaller preset, or {general}"
    return f"no smaller preset fits in {free / 1e9:.2f} GB: {general}"


def _work(preset: Preset) -> int:
    return preset.side**2 * preset.frames
