"""`i2vd bench memory`: peak memory of each preset in each mode, measured with the real worker.

Each row is one clip with the fewest steps, on the configured model. The predictions come from
`daemon.estimate.requirements`.
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
from pipeline.memory.modes import Mode
from pipeline.memory.peak_memory import peak_memory
from pipeline.quality import NO_LIMITS
from pipeline.request.presets import family_of
from pipeline.request.spec import Spec

_UNLIMITED = 1 << 50
"""More bytes than any device has: makes a CPU worker count its tensors, without a limit."""


class NotMeasured(Exception):
    """The worker could not measure; the message gives the reason."""


async def measure(
    settings: Settings, presets: Sequence[str], console: Console
) -> AsyncIterator[Requirement]:
    """Yield a row for each preset and mode of the configured model on its first device."""
    device = local_device(settings.model.devices)
    load = settings.model.load_on(device)
    limit = settings.model.max_vram
    if device == "cpu":
        load = load.model_copy(update={"max_memory": limit or _UNLIMITED})
    lines: list[str] = []

    def on_failure(failure: ChildFailure) -> None:
        lines.append(failure.reason)

    generator = ClipGenerator(
        load, lines.append, on_failure, limits=NO_LIMITS, timeouts=settings.model.heartbeat_timeouts
    )
    image_pool = ImagePool(lines.append, on_failure)
    family = family_of(settings.model.name)
    sample = sorted(SAMPLES.glob("*.jpg"))[0]
    try:
        with tempfile.TemporaryDirectory(prefix="i2vd-bench-") as folder:
            inspected = await image_pool.inspect(sample)
            if not isinstance(inspected, Inspected):
                raise NotMeasured(f"{sample}: {inspected.reason}")
            for name in presets:
                spec = spec_of(name, family)
                clean = Path(folder) / f"{name}.png"
                await image_pool.prepare(sample, inspected.sha256, spec, clean)
                for mode in ladder.modes(lossy=True):
                    console.print(f"{name}, {mode} ...", end="\r")
                    yield await _measure_mode(
                        generator, settings, spec, mode, clean, Path(folder), limit
                    )
    finally:
        await image_pool.close()
        await generator.close()


async def _measure_mode(
    generator: ClipGenerator,
    settings: Settings,
    spec: Spec,
    mode: Mode,
    clean: Path,
    folder: Path,
    limit: int | None,
) -> Requirement:
    rung = rung_of(spec, mode)
    found = peak_memory(spec, rung, dimensions_of(settings.model.name), generator.dtype)
    request = GenerationRequest(f"{spec.preset}-{mode}", spec, (rung,), lambda *_: 0, clean, folder)
    clip = await generator.generate(request, lambda _: None)
    if not isinstance(clip, Clip) and clip.kind not in ("memory", "failed"):
        raise NotMeasured(clip.reason)
    done = clip.made if isinstance(clip, Clip) else None
    peak = done.peak_memory if done else None
    return Requirement(
        preset=spec.preset,
        mode=mode,
        exact=mode.exact,
        predicted_bytes=found.most,
        measured_bytes=peak,
        seconds=round(sum(done.seconds.values()), 2) if done else None,
        fits=done is not None and (limit is None or (peak or 0) <= limit),
        outcome=None if isinstance(clip, Clip) else clip.reason,
    )
