"""`i2vd bench memory`: what each preset takes in each mode, measured with the real worker.

A clip of the fewest steps for each row, with the model as it is configured. needs.py predicts.
"""

import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from rich.console import Console

from daemon.cli.demo import SAMPLES
from daemon.config.settings import Settings
from daemon.devices import local_device
from daemon.estimate.requirements import Requirement, rung_of, spec_of
from pipeline.children.exit_reasons import ChildFailure
from pipeline.children.generation import Clip, GenerationRequest
from pipeline.children.generator import ClipGenerator
from pipeline.children.image_pool import ImagePool
from pipeline.children.protocol import Inspected
from pipeline.memory import ladder
from pipeline.memory.dimensions import dimensions_of
from pipeline.memory.model import peak_memory
from pipeline.memory.modes import Mode
from pipeline.quality import NO_LIMITS
from pipeline.request.presets import family_of
from pipeline.request.spec import Spec

_UNLIMITED = 1 << 50
"""More than any device has: so the tensors on a CPU are counted, and never too many."""


class NotMeasured(Exception):
    """The worker could not be asked; the message says why."""


async def measured(
    settings: Settings, presets: Sequence[str], console: Console
) -> AsyncIterator[Requirement]:
    """A row for each preset and mode of the configured model on its first device."""
    device = local_device(settings.model.devices)
    load = settings.model.load_on(device)
    limit = settings.model.max_vram
    if device == "cpu":
        load = load.model_copy(update={"max_memory": limit or _UNLIMITED})
    lines: list[str] = []

    def tell_loss(loss: ChildFailure) -> None:
        lines.append(loss.reason)

    maker = ClipGenerator(
        load, lines.append, tell_loss, limits=NO_LIMITS, timeouts=settings.model.silence
    )
    decoder = ImagePool(lines.append, tell_loss)
    family = family_of(settings.model.name)
    sample = sorted(SAMPLES.glob("*.jpg"))[0]
    try:
        with tempfile.TemporaryDirectory(prefix="i2vd-bench-") as folder:
            looked = await decoder.inspect(sample)
            if not isinstance(looked, Inspected):
                raise NotMeasured(f"{sample}: {looked.reason}")
            for name in presets:
                spec = spec_of(name, family)
                clean = Path(folder) / f"{name}.png"
                await decoder.prepare(sample, looked.sha256, spec, clean)
                for mode in ladder.modes(lossy=True):
                    console.print(f"{name}, {mode} ...", end="\r")
                    yield await _measure(maker, settings, spec, mode, clean, Path(folder), limit)
    finally:
        await decoder.close()
        await maker.close()


async def _measure(
    maker: ClipGenerator,
    settings: Settings,
    spec: Spec,
    mode: Mode,
    clean: Path,
    folder: Path,
    limit: int | None,
) -> Requirement:
    rung = rung_of(spec, mode)
    found = peak_memory(spec, rung, dimensions_of(settings.model.name), maker.dtype)
    order = GenerationRequest(f"{spec.preset}-{mode}", spec, (rung,), lambda *_: 0, clean, folder)
    clip = await maker.generate(order, lambda _: None)
    if not isinstance(clip, Clip) and clip.kind not in ("memory", "failed"):
        raise NotMeasured(clip.reason)
    made = clip.made if isinstance(clip, Clip) else None
    taken = made.peak_memory if made else None
    return Requirement(
        preset=spec.preset,
        mode=mode,
        exact=mode.exact,
        predicted_bytes=found.most,
        measured_bytes=taken,
        seconds=round(sum(made.seconds.values()), 2) if made else None,
        fits=made is not None and (limit is None or (taken or 0) <= limit),
        outcome=None if isinstance(clip, Clip) else clip.reason,
    )
