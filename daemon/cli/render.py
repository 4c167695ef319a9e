"""Render one clip without the daemon: same child processes and spec, no queue."""

import contextlib
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from daemon.cli.paths import is_utf8, readable_by_children, shown
from daemon.config.settings import Model, Settings
from daemon.devices import local_device
from daemon.fs.atomic import atomic_write
from daemon.publish.publisher import CLIP
from pipeline.children.exit_reasons import ChildFailure
from pipeline.children.generation import Clip, GenerationFailure, GenerationRequest, StepDown
from pipeline.children.generator import ClipGenerator
from pipeline.children.image_pool import ImagePool
from pipeline.children.protocol import (
    Inspected,
    Load,
    Loaded,
    QualityRejected,
    Rejected,
    Unavailable,
)
from pipeline.children.protocol import Progress as Step
from pipeline.memory import ladder
from pipeline.memory.dimensions import dimensions_of
from pipeline.memory.modes import Rung
from pipeline.memory.peak_memory import peak_memory, required_memory
from pipeline.request.presets import family_of
from pipeline.request.spec import Request, Spec, check, resolve
from pipeline.sidecar import Applied, AppliedRule, Sidecar, Source, compose_sidecar


class NotRendered(Exception):
    """There is no clip; `mistake` is True if the request is wrong."""

    def __init__(self, message: str, *, mistake: bool = False) -> None:
        super().__init__(message)
        self.mistake = mistake


@dataclass(frozen=True)
class Rendered:
    """A finished clip and its sidecar."""

    clip: Path
    sidecar: Sidecar


async def render_one(
    settings: Settings, picture: Path, requested: Mapping[str, Any], output: Path, console: Console
) -> Rendered:
    """Make one clip with the requested settings. Raises NotRendered."""
    family = family_of(settings.model.name)
    problems = check(requested, family)
    for problem in problems:
        if not problem.fatal:
            console.print(f"[yellow]{problem.key}: {problem.message}[/]")
    if fatal := [problem for problem in problems if problem.fatal]:
        message = "\n".join(f"--{problem.key}: {problem.message}" for problem in fatal)
        raise NotRendered(message, mistake=True)

    def spec_for(inspected: Inspected) -> Spec:
        return resolve(
            Request.model_validate(dict(requested)),
            family,
            source=(inspected.width, inspected.height),
            sha256=inspected.sha256,
            rng=random.SystemRandom(),
        )

    return await _render(settings, picture, spec_for, None, output, console)


async def render_again(
    settings: Settings,
    sidecar: Sidecar,
    folder: Path,
    picture: Path | None,
    output: Path,
    console: Console,
) -> Rendered:
    """Make the clip of a sidecar in `folder` again. Raises NotRendered."""
    candidates = [picture] if picture else _candidates(settings, sidecar, folder)
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        searched = ", ".join(map(shown, candidates))
        raise NotRendered(f"the picture is not at {searched}; say --picture", mistake=True)

    def spec_for(inspected: Inspected) -> Spec:
        if inspected.sha256 != sidecar.source.sha256:
            raise NotRendered(f"{shown(found)} is not the picture of that clip", mistake=True)
        applied = sidecar.applied
        actual = applied.model_dump(include={"width", "height", "frames", "seed", "speed"})
        return sidecar.requested.model_copy(update=actual)

    return await _render(
        settings, found, spec_for, sidecar.rule, output, console, like=sidecar.applied
    )


def _candidates(settings: Settings, sidecar: Sidecar, folder: Path) -> list[Path]:
    """Return the possible paths of the picture: beside the clip, in the archive, in the inbox."""
    path = sidecar.source.path
    candidates = [folder / Path(path).name]
    for inbox in settings.inbox:
        candidates += [inbox.archive / path, inbox.path / path]
    return candidates


async def _render(
    settings: Settings,
    picture: Path,
    spec_for: Callable[[Inspected], Spec],
    rule: AppliedRule | None,
    output: Path,
    console: Console,
    like: Applied | None = None,
) -> Rendered:
    """Render a picture; `like` is the applied settings of an earlier clip to reproduce."""
    lines: list[str] = []

    def on_failure(failure: ChildFailure) -> None:
        lines.append(f"{failure.reason}; {failure.advice}")

    image_pool = ImagePool(lines.append, on_failure)
    generator = ClipGenerator(
        _load(settings.model, like),
        lines.append,
        on_failure,
        limits=settings.quality,
        timeouts=settings.model.heartbeat_timeouts,
        env=settings.caches if settings.state.is_dir() else None,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    beside = output.parent if is_utf8(output.parent) else None  # else where children can be sent
    staging = Path(tempfile.mkdtemp(prefix=".i2vd-", dir=beside))
    opened = contextlib.ExitStack()
    try:
        readable = opened.enter_context(readable_by_children(picture))
        inspected = await image_pool.inspect(readable, lenient=True)
        if isinstance(inspected, (Rejected, Unavailable)):
            raise NotRendered(f"{shown(picture)}: {inspected.reason}", mistake=True)
        spec = spec_for(inspected)
        clean = staging / "picture.png"
        prepared = await image_pool.prepare(readable, inspected.sha256, spec, clean)
        if isinstance(prepared, (Rejected, Unavailable)):
            raise NotRendered(f"{shown(picture)}: {prepared.reason}")
        request = _create_request(settings, spec, generator.dtype, clean, staging, like)
        clip = await _generate(generator, request, console)
        if isinstance(clip, GenerationFailure):
            raise NotRendered("\n".join([*lines[-5:], clip.reason]))
        sidecar = _compose_sidecar(clip, picture, inspected, rule, spec)
        atomic_write(
            output.with_name(f"{output.name}.json"), sidecar.model_dump_json(indent=2) + "\n"
        )
        shutil.move(staging / CLIP, output)
        return Rendered(output, sidecar)
    finally:
        await image_pool.close()
        await generator.close()
        opened.close()
        shutil.rmtree(staging, ignore_errors=True)


def _compose_sidecar(
    clip: Clip, picture: Path, inspected: Inspected, rule: AppliedRule | None, requested: Spec
) -> Sidecar:
    return compose_sidecar(
        clip,
        generator=f"i2vd {version('i2vd')}",
        job="render",
        attempt=1,
        created_at=datetime.now(UTC),
        source=Source(
            path=shown(Path(picture.name)),
            **inspected.model_dump(include={"sha256", "size", "width", "height", "caption"}),
        ),
        rule=rule,
        requested=requested,
    )


def _load(model: Model, like: Applied | None) -> Load:
    """Return the load message; on a GPU with the dtype of the earlier clip."""
    load = model.load_on(local_device(model.devices))
    if like is None:
        return load
    dtype = load.dtype if load.device == "cpu" else like.dtype
    return load.model_copy(update={"dtype": dtype})


def _create_request(
    settings: Settings, spec: Spec, dtype: str, clean: Path, staging: Path, like: Applied | None
) -> GenerationRequest:
    """Return a request with the whole ladder, or the earlier clip's rung and those below it.

    Memory comes from the formula only: no measurements are available.
    """
    dimensions = dimensions_of(settings.model.name)

    def predicted(rung: Rung) -> int:
        return peak_memory(spec, rung, dimensions, dtype).most

    def required(rung: Rung, loaded: Loaded) -> int:
        found = peak_memory(spec, rung, dimensions, loaded.dtype)
        return required_memory(found, rung.mode, None, gpu=loaded.device.startswith("cuda"))

    family = family_of(settings.model.name)
    rungs = ladder.rungs(spec, family, predicted, lossy=settings.model.fp8)
    if like is not None:
        first = Rung(like.mode, spec.width, spec.height, spec.frames)
        rungs = (first, *(rung for rung in rungs if predicted(rung) < predicted(first)))
    return GenerationRequest("render", spec, rungs, required, clean, staging)


async def _generate(
    generator: ClipGenerator, request: GenerationRequest, console: Console
) -> Clip | GenerationFailure:
    columns = (TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
        bar = bars.add_task("start", total=None)

        def report(message: Step | Loaded | StepDown | QualityRejected) -> None:
            match message:
                case Step():
                    bars.update(
                        bar, description=message.stage, completed=message.step, total=message.steps
                    )
                case StepDown():
                    console.print(f"no room for {message.rung}: {message.detail}")
                case QualityRejected():
                    console.print(f"refused by the gate: {message.reason}")

        return await generator.generate(request, report)
