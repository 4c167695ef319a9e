"""Benchmark commands: bench memory, speed, timeline."""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from daemon.cli.base import Config, Exit, app, fail, load_settings
from daemon.devices import local_device
from pipeline.request.presets import MICRO

if TYPE_CHECKING:
    from daemon.estimate.requirements import Requirement

benches = typer.Typer(help="Measure what this machine can do.", no_args_is_help=True)
app.add_typer(benches, name="bench")


@benches.command()
def memory(
    config: Config = None,
    model: Annotated[
        str | None, typer.Option(help="Predict for this model only, such as i2vgen-xl.")
    ] = None,
    card: Annotated[
        str | None, typer.Option(help="Predict for a GPU of this size only, such as 8GB.")
    ] = None,
    presets: Annotated[
        str | None, typer.Option(help="Names separated by commas; default: all.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the memory of each preset in each mode, predicted and measured."""
    from daemon.cli import bench_memory
    from daemon.estimate import requirements

    settings = load_settings(config)
    name = model or settings.model.name
    names = _preset_names(name, presets)
    size = _parse_size(card)
    device = local_device(settings.model.devices)
    if model or card or (device == "cpu" and name != MICRO):
        rows = requirements.predicted(name, names, size)
    else:
        try:
            rows = asyncio.run(
                _collect(bench_memory.measure(settings, names, Console(stderr=True)))
            )
        except bench_memory.NotMeasured as error:
            fail(Exit.FAILED, str(error))
    if as_json:
        typer.echo(json.dumps([row.model_dump(mode="json") for row in rows], indent=2))
    else:
        requirements.show(rows, Console())


@benches.command()
def timeline(
    config: Config = None,
    clips: Annotated[int, typer.Option(min=2, max=100, help="Number of clips to make.")] = 6,
    preset: Annotated[str, typer.Option(help="Preset of the configured model.")] = "standard",
    trace: Annotated[
        Path | None, typer.Option(help="Save the timeline to this file, as a Chrome trace.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the start-up time of a worker, and its device's idle time between clips."""
    from daemon.cli import bench_timeline
    from daemon.cli.sandbox import SandboxFailed

    settings = load_settings(config)
    model = settings.model
    device = local_device(model.devices)
    if device == "cpu" and model.name != MICRO:
        fail(Exit.MISTAKE, f"{model.name} takes hours for a clip without a GPU")
    _preset_names(model.name, preset)
    with tempfile.TemporaryDirectory(prefix="i2vd-bench-") as folder:
        try:
            one = model.model_copy(update={"devices": (device,)})
            on_one_device = settings.model_copy(update={"model": one})
            found = bench_timeline.measure(Path(folder), clips, preset, on_one_device)
        except SandboxFailed as error:
            fail(Exit.FAILED, str(error))
        if trace is not None:
            bench_timeline.save_trace(found.trace, trace)
    if as_json:
        typer.echo(found.as_json())
    else:
        bench_timeline.show(found, Console())


async def _collect(rows: AsyncIterator["Requirement"]) -> "list[Requirement]":
    return [row async for row in rows]


def _preset_names(model: str, text: str | None) -> list[str]:
    from daemon.estimate.requirements import presets_of

    known = presets_of(model)
    names = text.split(",") if text else known
    if unknown := [name for name in names if name not in known]:
        fail(Exit.MISTAKE, f"unknown preset {unknown[0]!r}; known: {', '.join(known)}")
    return names


def _parse_size(card: str | None) -> int | None:
    if card is None:
        return None
    parse: Callable[[object], ByteSize] = TypeAdapter(ByteSize).validate_python
    try:
        return int(parse(card))
    except ValidationError:
        fail(Exit.MISTAKE, f"--card {card!r} is no size; write 8GB or 6GiB")


@benches.command()
def speed(
    rounds: Annotated[int, typer.Option(min=1, help="Number of runs of each case.")] = 5,
    frames: Annotated[int, typer.Option(min=2, max=32)] = 8,
    side: Annotated[int, typer.Option(min=8, max=128, help="Latent cells; a multiple of 8.")] = 32,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time a UNet step on this CPU, diffusers' and i2vd's, with their largest difference."""
    if side % 8:
        fail(Exit.MISTAKE, f"--side {side} is not a multiple of 8")
    size = ("--frames", str(frames), "--side", str(side))
    _print_rows(
        _run_benchmark("pipeline.worker.bench.speed", "--rounds", str(rounds), *size),
        as_json=as_json,
    )


def _run_benchmark(module: str, *arguments: str) -> list[dict[str, Any]]:
    """Run a benchmark module in a child process and return its rows: this one has no torch."""
    command = [sys.executable, "-P", "-m", module, *arguments]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if child.returncode:
        fail(Exit.FAILED, f"the measurement ended with {child.returncode}")
    return [json.loads(line) for line in child.stdout.splitlines()]


def _print_rows(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console().print(table)
