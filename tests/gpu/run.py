"""Run the full-size model, with random weights, on a CUDA device.

    python -m tests.gpu.run modes [--presets preview,standard] [--modes resident,chunked]
    python -m tests.gpu.run cards [--presets ...] [--cards 4,6,8,12,16,24]
    python -m tests.gpu.run speed [--presets standard,draft] [--rounds 3] [--seconds 200]
    python -m tests.gpu.run service [--presets standard,draft] [--clips 6]

`modes`: every preset in every memory mode. `cards`: every preset with the memory limited to some
GB: the chosen mode, its peak, and whether the clip was degraded. `speed`: diffusers and i2vd at all
speeds, and the floor, in under eight minutes. `service`: a real daemon: start-up time of its
workers, and idle time of the device between clips. Time and memory do not depend on the weights, so
no checkpoint is needed. Prints a table and writes it, with its JSON, to tests/gpu/results/. In
`modes` and `cards` three steps are scaled to the preset's number.
With `--device cpu --model micro` the same code runs without a GPU.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

from pipeline.children.protocol import Generate, Progress
from pipeline.memory.dimensions import PUBLISHED, ModelDimensions, dimensions_of
from pipeline.memory.ladder import first_fitting, rungs
from pipeline.memory.modes import Mode, Rung
from pipeline.memory.peak_memory import peak_memory, required_memory
from pipeline.quality import NO_LIMITS
from pipeline.request.presets import I2VGEN_XL, MICRO, MICRO_FAMILY, Family
from pipeline.request.spec import Spec
from pipeline.worker import generate
from pipeline.worker.diffusion.decode import release
from pipeline.worker.errors import QualityFailure, is_out_of_memory
from pipeline.worker.memory.budget import Budget
from pipeline.worker.model.loader import LoadedModel, load_model
from pipeline.worker.optimizations import fused_ops
from pipeline.worker.progress import ProgressReporter
from tests.gpu import service, speed
from tests.published import noise, published

_EVERY = ",".join(I2VGEN_XL.presets)
_SOME = "standard,draft"
_PRESETS = {"modes": _EVERY, "cards": _EVERY, "speed": _SOME, "service": _SOME}
RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """A model on a device, and its dimensions."""

    model: LoadedModel
    family: Family
    dimensions: ModelDimensions
    steps: int | None
    """Replaces the number of the preset."""

    @property
    def dtype(self) -> str:
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def gpu(self) -> bool:
        return self.model.device.type == "cuda"


def main() -> None:
    options = _parse_arguments()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("no CUDA device here: this measures the full model on a GPU, and nothing else")
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # as the worker does
    torch.set_grad_enabled(False)
    presets = (options.presets or _PRESETS[options.what]).split(",")
    found = _rows(options, presets)
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else "CPU"
    title = f"{name}, torch {torch.__version__}, diffusers {diffusers.__version__}, {date.today()}"
    command = f"python -m tests.gpu.run {' '.join(sys.argv[1:])}"
    rows: list[Row] = []
    for row in found:
        rows.append(row)
        print("  ".join(f"{value!s:>12}" for value in row.values()), flush=True)
        report(options.what, rows, title, command, options.results)


def _rows(options: argparse.Namespace, presets: list[str]) -> Iterator[Row]:
    match options.what:
        case "service":
            model = None if options.model == "full" else options.model
            return service.rows(model, options.device, presets, options.clips)
        case "speed":
            return speeds(_bench(options), presets, options)
        case "modes":
            return modes(
                _bench(options), presets, [Mode(name) for name in options.modes.split(",")]
            )
        case _:
            sizes = [float(size) for size in options.cards.split(",")]
            return cards(_bench(options), presets, sizes)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=[*_PRESETS])
    parser.add_argument("--presets", help="names with commas")
    parser.add_argument("--modes", default=",".join(Mode))
    parser.add_argument("--cards", default="4,6,8,12,16,24", help="sizes in GB")
    parser.add_argument("--steps", type=int, help="default: 3, for speed the preset's")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=200, help="no round starts after it")
    parser.add_argument("--clips", type=int, default=6, help="of each preset, for service")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", choices=("full", MICRO), default="full")
    return parser.parse_args()


def _bench(options: argparse.Namespace) -> Bench:
    steps = options.steps or (None if options.what == "speed" else 3)
    if options.model == MICRO:
        kind = "float16" if options.device.startswith("cuda") else "float32"
        model = load_model(MICRO, options.device, kind, copy=True, on_step=lambda: None)
        return Bench(model, MICRO_FAMILY, dimensions_of(MICRO), steps)
    model = published(options.device, torch.float16, noise)
    fused_ops.self_test(model.device, model.dtype)
    return Bench(model, I2VGEN_XL, PUBLISHED, steps)


def speeds(bench: Bench, presets: list[str], options: argparse.Namespace) -> Iterator[Row]:
    """Measure every preset, diffusers against i2vd."""
    for name in presets:
        for row in speed.rows(bench.model, _spec(bench, name), options.rounds, options.seconds):
            yield {"preset": name, **row}


def modes(bench: Bench, presets: list[str], tested: list[Mode]) -> Iterator[Row]:
    """Measure every preset in every memory mode, with all memory."""
    budget = Budget(bench.model.device, None if bench.gpu else 1 << 50)
    first = _spec(bench, presets[0])
    for mode in tested:  # warm-up of the libraries
        measure(bench, budget, first, Rung(mode, first.width, first.height, first.frames))
    for name in presets:
        spec = _spec(bench, name)
        for mode in tested:
            rung = Rung(mode, spec.width, spec.height, spec.frames)
            yield {"preset": name, "mode": str(mode), **measure(bench, budget, spec, rung)}


def cards(bench: Bench, presets: list[str], sizes: list[float]) -> Iterator[Row]:
    """Measure every preset with every memory limit, from the first rung predicted to fit."""
    for size in sizes:
        limit = int(size * 1e9)
        budget = Budget(bench.model.device, limit)
        for name in presets:
            spec = _spec(bench, name)
            _clear(bench.model)

            def predicted(rung: Rung, spec: Spec = spec) -> int:
                return peak_memory(spec, rung, bench.dimensions, bench.dtype).most

            def needs(rung: Rung, spec: Spec = spec) -> int:
                found = peak_memory(spec, rung, bench.dimensions, bench.dtype)
                return required_memory(found, rung.mode, None, gpu=bench.gpu)

            ladder = rungs(spec, bench.family, predicted)
            first = first_fitting(ladder, budget.free(), needs)
            tried = []
            for rung in ladder[first:]:
                tried.append(str(rung.mode))
                row = measure(bench, budget, spec, rung)
                if not row["outcome"].startswith("out of memory"):
                    break
            yield {
                "card": size,
                "preset": name,
                "tried": " ".join(tried),
                "clip": f"{rung.width}x{rung.height}x{rung.frames}",
                "degraded": "yes" if rung.degrades(spec) else "no",
                **row,
            }


def _spec(bench: Bench, name: str) -> Spec:
    preset = bench.family.presets[name]
    spec = Spec(
        prompt="waves",
        negative_prompt="static",
        preset=name,
        width=preset.side,
        height=preset.side,
        frames=preset.frames,
        fps=8,
        motion_fps=16,
        steps=preset.steps,
        guidance=preset.guidance,
        seed=1,
    )
    return spec.model_copy(update={"steps": bench.steps or spec.steps})


def _clear(model: LoadedModel) -> None:
    for network in (model.unet, model.vae, model.text_encoder, model.image_encoder):
        model.weights.unload(network)
    release(model.device)


class _StepRecorder:
    """Channel that records the times of the denoising steps."""

    def __init__(self) -> None:
        self.steps: list[float] = []

    def send(self, reply: Any) -> None:
        if isinstance(reply, Progress) and reply.stage == "denoise":
            self.steps.append(time.monotonic())

    def waiting(self) -> bool:
        return False


def measure(bench: Bench, budget: Budget, spec: Spec, rung: Rung) -> Row:
    """Generate one clip of few steps; extrapolate its time to the preset's number of steps."""
    model = bench.model
    synchronize = torch.cuda.synchronize if bench.gpu else lambda: None
    recorder = _StepRecorder()
    progress = ProgressReporter(recorder, "condition", synchronize=synchronize)  # type: ignore[arg-type]
    outcome = "made"
    _clear(model)
    with tempfile.TemporaryDirectory() as folder, budget.enforced():
        noise = np.random.default_rng(0).integers(0, 255, (rung.height, rung.width, 3), np.uint8)
        Image.fromarray(noise).save(f"{folder}/clean.png")
        request = Generate(
            job="gpu",
            spec=Spec.model_construct(**dict(spec)),
            mode=rung.mode,
            width=rung.width,
            height=rung.height,
            frames=rung.frames,
            picture=f"{folder}/clean.png",
            staging=folder,
            limits=NO_LIMITS,
        )
        try:
            generate.write_clip(
                generate.generate_frames(model, request, progress, budget), progress
            )
        except QualityFailure as error:
            outcome = f"quality failure in {progress.stage}: {error}"
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            outcome = f"out of memory in {progress.stage}"
    seconds = dict(progress.seconds)
    whole = bench.family.presets[spec.preset].steps
    if "denoise" in seconds and len(recorder.steps) > 1:
        seconds["denoise"] = (recorder.steps[-1] - recorder.steps[-2]) * whole
    found = peak_memory(spec, rung, bench.dimensions, bench.dtype)
    return {
        "seconds": round(sum(seconds.values()), 1),
        **{f"of that {stage}": round(spent, 2) for stage, spent in seconds.items()},
        "peak_gb": round((budget.peak() or 0) / 1e9, 3),
        "predicted_gb": round(found.most / 1e9, 3),
        "needed_gb": round(required_memory(found, rung.mode, None, gpu=bench.gpu) / 1e9, 3),
        "outcome": outcome,
    }


def report(what: str, rows: list[Row], title: str, command: str, folder: Path) -> None:
    """Write the rows as JSON and as a Markdown table; after each row, as a run may be cut off."""
    folder.mkdir(exist_ok=True)
    facts = {"device": title, "command": command, "rows": rows}
    (folder / f"{what}.json").write_text(json.dumps(facts, indent=1) + "\n")
    columns = list(rows[0])
    lines = [
        f"# {title}",
        "",
        f"`{command}`",
        "",
        f"| {' | '.join(columns)} |",
        "|" + " --- |" * len(columns),
        *(f"| {' | '.join(map(str, row.values()))} |" for row in rows),
    ]
    (folder / f"{what}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
