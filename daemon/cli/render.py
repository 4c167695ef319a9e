"""One clip without the daemon: the same children and the same Spec, no queue."""

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

from daemon.config.settings import Model, Settings
from daemon.devices import local_device
from daemon.fs.atomic import atomic_write
from daemon.publish.publisher import CLIP
from pipeline.children.exit_reasons import ChildFailure
from pipeline.children.generation import Clip, GenerationFailure, GenerationRequest, StepDown
from pipeline.children.generator import ClipGenerator
from pipeline.children.image_pool import ImagePool
from pipeline.children.protocol import Inspected, Load, Loaded, QualityRejected, Rejected
from pipeline.children.protocol import Progress as Step
from pipeline.memory import ladder
from pipeline.memory.dimensions import dimensions_of
from pipeline.memory.model import peak_memory, required_memory
from pipeline.memory.modes import Rung
from pipeline.request.presets import family_of
from pipeline.request.spec import Request, Spec, check, resolve
from pipeline.sidecar import Applied, AppliedRule, Sidecar, Source, compose_sidecar


class NotRendered(Exception):
    """There is no clip; `mistake` when what was asked is wrong."""

    def __init__(self, message: str, *, mistake: bool = False) -> None:
        super().__init__(message)
        self.mistake = mistake


@dataclass(frozen=True)
class Rendered:
    """A clip and its sidecar, in place."""

    clip: Path
    sidecar: Sidecar


async def render_one(
    settings: Settings, picture: Path, asked: Mapping[str, Any], output: Path, console: Console
) -> Rendered:
    """Make one clip as asked. Raises NotRendered."""
    family = family_of(settings.model.name)
    problems = check(asked, family)
    for problem in problems:
        if not problem.fatal:
            console.print(f"[yellow]{problem.key}: {problem.message}[/]")
    if fatal := [problem for problem in problems if problem.fatal]:
        told = "\n".join(f"--{problem.key}: {problem.message}" for problem in fatal)
        raise NotRendered(told, mistake=True)

    def spec_for(looked: Inspected) -> Spec:
        return resolve(
            Request.model_validate(dict(asked)),
            family,
            source=(looked.width, looked.height),
            sha256=looked.sha256,
            rng=random.SystemRandom(),
        )

    return await _render(settings, picture, spec_for, None, output, console)


async def render_again(
    settings: Settings,
    told: Sidecar,
    beside: Path,
    picture: Path | None,
    output: Path,
    console: Console,
) -> Rendered:
    """Make the clip of a sidecar again. Raises NotRendered."""
    places = [picture] if picture else _places(settings, told, beside)
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        looked = ", ".join(str(place) for place in places)
        raise NotRendered(f"the picture is not at {looked}; say --picture", mistake=True)

    def spec_for(looked: Inspected) -> Spec:
        if looked.sha256 != told.source.sha256:
            raise NotRendered(f"{found} is not the picture of that clip", mistake=True)
        given = told.given
        really = given.model_dump(include={"width", "height", "frames", "seed", "speed"})
        return told.asked.model_copy(update=really)

    return await _render(settings, found, spec_for, told.rule, output, console, like=told.given)


def _places(settings: Settings, told: Sidecar, beside: Path) -> list[Path]:
    """Where the picture may lie: with the clip, in the archive, or in the inbox still."""
    places = [beside / Path(told.source.path).name]
    for inbox in settings.inbox:
        places += [inbox.archive / told.source.path, inbox.path / told.source.path]
    return places


async def _render(
    settings: Settings,
    picture: Path,
    spec_for: Callable[[Inspected], Spec],
    rule: AppliedRule | None,
    output: Path,
    console: Console,
    like: Applied | None = None,
) -> Rendered:
    """`like` is what an earlier clip was given, where there was one."""
    said: list[str] = []

    def tell_loss(loss: ChildFailure) -> None:
        said.append(f"{loss.reason}; {loss.advice}")

    decoder = ImagePool(said.append, tell_loss)
    maker = ClipGenerator(
        _load(settings.model, like),
        said.append,
        tell_loss,
        limits=settings.gate,
        timeouts=settings.model.silence,
        env=settings.caches if settings.state.is_dir() else None,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".i2vd-", dir=output.parent))
    try:
        looked = await decoder.inspect(picture.resolve())
        if isinstance(looked, Rejected):
            raise NotRendered(f"{picture}: {looked.reason}", mistake=True)
        spec = spec_for(looked)
        clean = staging / "picture.png"
        prepared = await decoder.prepare(picture.resolve(), looked.sha256, spec, clean)
        if isinstance(prepared, Rejected):
            raise NotRendered(f"{picture}: {prepared.reason}")
        order = _order(settings, spec, maker.dtype, clean, staging, like)
        clip = await _make(maker, order, console)
        if isinstance(clip, GenerationFailure):
            raise NotRendered("\n".join([*said[-5:], clip.reason]))
        sidecar = _sidecar(clip, picture, looked, rule, spec)
        atomic_write(
            output.with_name(f"{output.name}.json"), sidecar.model_dump_json(indent=2) + "\n"
        )
        (staging / CLIP).replace(output)
        return Rendered(output, sidecar)
    finally:
        await decoder.close()
        await maker.close()
        shutil.rmtree(staging, ignore_errors=True)


def _sidecar(
    clip: Clip, picture: Path, looked: Inspected, rule: AppliedRule | None, asked: Spec
) -> Sidecar:
    return compose_sidecar(
        clip,
        generator=f"i2vd {version('i2vd')}",
        job="render",
        attempt=1,
        made_at=datetime.now(UTC),
        source=Source(
            path=picture.name,
            **looked.model_dump(include={"sha256", "size", "width", "height", "caption"}),
        ),
        rule=rule,
        asked=asked,
    )


def _load(model: Model, like: Applied | None) -> Load:
    """As for an earlier clip: in its type where there is a GPU."""
    load = model.load_on(local_device(model.devices))
    if like is None:
        return load
    dtype = load.dtype if load.device == "cpu" else like.dtype
    return load.model_copy(update={"dtype": dtype})


def _order(
    settings: Settings, spec: Spec, dtype: str, clean: Path, staging: Path, like: Applied | None
) -> GenerationRequest:
    """The whole ladder, or what is below an earlier clip; needs are by the formula alone."""
    anatomy = dimensions_of(settings.model.name)

    def predicted(rung: Rung) -> int:
        return peak_memory(spec, rung, anatomy, dtype).most

    def needs(rung: Rung, loaded: Loaded) -> int:
        found = peak_memory(spec, rung, anatomy, loaded.dtype)
        return required_memory(found, rung.mode, None, gpu=loaded.device.startswith("cuda"))

    family = family_of(settings.model.name)
    rungs = ladder.rungs(spec, family, predicted, lossy=settings.model.fp8)
    if like is not None:
        first = Rung(like.mode, spec.width, spec.height, spec.frames)
        rungs = (first, *(rung for rung in rungs if predicted(rung) < predicted(first)))
    return GenerationRequest("render", spec, rungs, needs, clean, staging)


async def _make(
    maker: ClipGenerator, order: GenerationRequest, console: Console
) -> Clip | GenerationFailure:
    columns = (TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
        bar = bars.add_task("start", total=None)

        def report(news: Step | Loaded | StepDown | QualityRejected) -> None:
            match news:
                case Step():
                    bars.update(bar, description=news.stage, completed=news.step, total=news.steps)
                case StepDown():
                    console.print(f"no room for {news.rung}: {news.detail}")
                case QualityRejected():
                    console.print(f"refused by the gate: {news.reason}")

        return await maker.generate(order, report)
