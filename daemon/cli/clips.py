"""Commands that work without the daemon: render, replay, model pull."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import tomli_w
import typer
from pydantic import ValidationError
from rich.console import Console

from daemon.cli.base import Config, Exit, app, fail, load_settings, utf8
from daemon.cli.render import NotRendered, Rendered, render_again, render_one
from daemon.telemetry.terminal import escape
from pipeline.sidecar import Sidecar
from rules.text_file import Unreadable, read_text

model = typer.Typer(help="The model's weights.", no_args_is_help=True)
app.add_typer(model, name="model")


@app.command()
def render(
    picture: Path,
    prompt: Annotated[str, typer.Option(help="What moves, and how.", callback=utf8)],
    output: Annotated[Path, typer.Option("-o", "--output", help="The clip to write.")],
    negative_prompt: Annotated[str | None, typer.Option(callback=utf8)] = None,
    preset: Annotated[
        str | None, typer.Option(help="draft, preview, standard, high, ultra")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Side in pixels of a square clip.")] = None,
    aspect: Annotated[str | None, typer.Option(help='"square", "source" or "16:9" ...')] = None,
    framing: Annotated[str | None, typer.Option(help="crop, fit or blur")] = None,
    frames: Annotated[int | None, typer.Option(help="8 to 32")] = None,
    fps: Annotated[int | None, typer.Option(help="4 to 24")] = None,
    motion_fps: Annotated[
        int | None, typer.Option(help="1 to 60; higher is less motion from frame to frame")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="10 to 100")] = None,
    guidance: Annotated[float | None, typer.Option(help="1.0 to 20.0")] = None,
    guidance_rescale: Annotated[
        float | None, typer.Option(help="0.0 to 1.0; against burnt colours")
    ] = None,
    seed: Annotated[str | None, typer.Option(help='a number, "random" or "content"')] = None,
    sampler: Annotated[str | None, typer.Option(help="ddim, dpm++2m or unipc")] = None,
    spacing: Annotated[str | None, typer.Option(help="leading or trailing")] = None,
    speed: Annotated[
        str | None, typer.Option(help="exact, balanced or fast (quicker, less exact)")
    ] = None,
    quality: Annotated[
        int | None, typer.Option(help="0 to 51, of the file; lower is better and larger")
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="x264 or nvenc")] = None,
    fallback: Annotated[
        str | None, typer.Option(help="short of memory: auto, keep-size or never")
    ] = None,
    force: Annotated[bool, typer.Option(help="Overwrite an existing clip.")] = False,
    config: Config = None,
) -> None:
    """Make one clip, without the daemon."""
    settings = load_settings(config)
    if output.suffix != ".mp4":
        fail(Exit.MISTAKE, f"{output}: the clip's name must end in .mp4")
    if output.exists() and not force:
        fail(Exit.MISTAKE, f"{output} exists; --force overwrites it")
    requested: dict[str, Any] = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "preset": preset,
        "size": size,
        "aspect": aspect,
        "framing": framing,
        "frames": frames,
        "fps": fps,
        "motion_fps": motion_fps,
        "steps": steps,
        "guidance": guidance,
        "guidance_rescale": guidance_rescale,
        "seed": int(seed) if seed and seed.isdigit() else seed,
        "sampler": sampler,
        "spacing": spacing,
        "speed": speed,
        "quality": quality,
        "encoder": encoder,
        "fallback": fallback,
    }
    requested = {key: value for key, value in requested.items() if value is not None}
    console = Console()
    try:
        rendered = asyncio.run(render_one(settings, picture, requested, output, console))
    except NotRendered as error:
        fail(Exit.MISTAKE if error.mistake else Exit.FAILED, str(error))
    _print_result(rendered, console)


@app.command()
def replay(
    sidecar: Annotated[Path, typer.Argument(help="clip.mp4.json")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Default: NAME-again.mp4")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Picture file, if it was moved.")] = None,
    config: Config = None,
) -> None:
    """Make the clip of a sidecar again and compare it byte for byte.

    The exit code is 1 if it differs.
    """
    settings = load_settings(config)
    try:
        original = Sidecar.model_validate_json(read_text(sidecar))
    except OSError as error:
        fail(Exit.MISTAKE, f"{sidecar}: {error.strerror}")
    except Unreadable as error:
        fail(Exit.MISTAKE, f"{sidecar}: {error}")
    except ValidationError as error:
        first = error.errors()[0]
        fail(Exit.MISTAKE, f"{sidecar}: not a sidecar: {first['loc']}: {first['msg']}")
    target = output or sidecar.with_name(f"{sidecar.name.removesuffix('.mp4.json')}-again.mp4")
    if target.exists():
        fail(Exit.MISTAKE, f"{target} exists; choose another name with -o")
    console = Console()
    try:
        rendered = asyncio.run(
            render_again(settings, original, sidecar.parent, picture, target, console)
        )
    except NotRendered as error:
        fail(Exit.MISTAKE if error.mistake else Exit.FAILED, str(error))
    _print_result(rendered, console)
    if rendered.sidecar.output.sha256 == original.output.sha256:
        console.print("the same clip, byte for byte")
    else:
        for difference in _differences(original, rendered.sidecar):
            console.print(f"differs: {escape(difference)}")
        raise typer.Exit(Exit.FAILED)


def _differences(old: Sidecar, new: Sidecar) -> list[str]:
    """Return what may explain a different clip of the same spec."""
    pairs: list[tuple[str, str | None, str | None]] = [
        ("model", old.model.weights, new.model.weights),
        ("device", old.device, new.device),
        ("type", old.applied.dtype, new.applied.dtype),
        ("mode", old.applied.mode, new.applied.mode),
    ]
    names = sorted(old.versions.keys() | new.versions.keys())
    pairs += [(name, old.versions.get(name), new.versions.get(name)) for name in names]
    found = [f"{name} was {a}, is {b}" for name, a, b in pairs if a != b]
    return found or ["the bytes, though model, device and versions are the same"]


def _print_result(rendered: Rendered, console: Console) -> None:
    out = rendered.sidecar.output
    console.print(
        f"{escape(str(rendered.clip))}: {out.width}x{out.height}, {out.frames} frames at {out.fps} "
        f"fps, {sum(rendered.sidecar.seconds.values()):.1f} s",
        highlight=False,
    )


@model.command("pull")
def pull(
    repository: Annotated[str, typer.Argument()] = "ali-vilab/i2vgen-xl",
    folder: Annotated[
        Path | None, typer.Option(help="Download to this folder instead of the hub cache.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Commit or branch; default: the commit that i2vd names.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Accept the licence without asking.")] = False,
) -> None:
    """Download the full model's weights (5.0 GB); resumes an interrupted download."""
    from pipeline.checkpoint import download as hub

    typer.echo(hub.LICENCE)
    if not yes:
        typer.confirm("Download?", abort=True)
    try:
        target = hub.pull(repository, revision, folder)
    except hub.DownloadFailed as error:
        fail(Exit.FAILED, str(error))
    pulled = f"{repository}@{revision}" if revision else repository
    name = str(folder.resolve()) if folder else pulled
    assignment = tomli_w.dumps({"name": name}).strip()
    typer.echo(f"fetched to {target}\nin the settings: [model] {assignment}")
