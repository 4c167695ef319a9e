"""The ladder: what is tried, in which order, when memory runs out.

Data and pure functions, decided in the parent, so that the way down survives a child that the
kernel shot. First the modes that keep the pixels, then smaller sizes, then fewer frames. What a
rung needs is told by memory.py.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from pipeline.memory.modes import Mode, Rung
from pipeline.request.presets import Family, Preset
from pipeline.request.spec import Spec

Needs = Callable[[Rung], int]
"""Bytes that a clip needs on a rung."""


def rungs(spec: Spec, family: Family, needs: Needs, *, lossy: bool = False) -> tuple[Rung, ...]:
    """The whole ladder of a Spec, first choice first.

    It never goes up and never repeats, and each rung needs less than the one before it: what would
    not help is left out. `lossy` allows the mode that changes the picture a little.
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
            width, height = _scaled(spec, smaller / side, family.multiple)
            rung = replace(rung, width=width, height=height)
            yield rung
    if spec.fallback != "never":
        for frames in (n for n in (24, 16, 8) if n < spec.frames):
            yield replace(rung, frames=frames)


def modes(*, lossy: bool = False) -> tuple[Mode, ...]:
    """The modes that may be used, fastest first."""
    return tuple(mode for mode in Mode if mode.exact or lossy)


def _scaled(spec: Spec, factor: float, multiple: int) -> tuple[int, int]:
    def near(pixels: int) -> int:
        return min(pixels, max(multiple, round(pixels * factor / multiple) * multiple))

    return near(spec.width), near(spec.height)


def first_fitting(ladder: tuple[Rung, ...], room: int | None, needs: Needs) -> int:
    """Index of the first rung that needs no more than `room` bytes.

    Where nobody counts them the first rung; when none fits the last, for a prediction is no proof.
    """
    if room is None:
        return 0
    return next((i for i, rung in enumerate(ladder) if needs(rung) <= room), len(ladder) - 1)


def advice(spec: Spec, family: Family, room: int | None, needs: Needs) -> str:
    """What helps when even the last rung had too little memory."""
    smallest = {
        name: needs(Rung(list(Mode)[-1], preset.side, preset.side, preset.frames))
        for name, preset in family.presets.items()
        if _work(preset) < spec.width * spec.height * spec.frames
    }
    fitting = [name for name, need in smallest.items() if room is not None and need <= room]
    told = "free the device's memory, or raise `model.max_vram` where it is set"
    if fitting:
        best = max(fitting, key=lambda name: _work(family.presets[name]))
        return f"the preset {best!r} would fit ({smallest[best] / 1e9:.2f} GB); or {told}"
    if room is None:
        return f"choose a smaller preset, or {told}"
    return f"no smaller preset fits in {room / 1e9:.2f} GB: {told}"


def _work(preset: Preset) -> int:
    return preset.side**2 * preset.frames
