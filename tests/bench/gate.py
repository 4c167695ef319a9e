"""Distance of good clips from the limits of the quality check, for the micro model's motions.

    python -m tests.bench.gate [--presets draft,preview] [--pictures daemon/samples]

Prints, for each preset and picture, the worst figure over all motions. Figures are of decoded
frames, as the worker measures them.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

from PIL import Image, ImageOps

from daemon.cli.demo import SAMPLES
from pipeline.children.generation import Clip, GenerationFailure, GenerationRequest
from pipeline.children.generator import ClipGenerator
from pipeline.children.protocol import Load
from pipeline.memory.modes import Mode, Rung
from pipeline.micro.training.motions import Motion
from pipeline.quality import NO_LIMITS, Measurements, QualityLimits, find_flaw
from pipeline.request.presets import MICRO, MICRO_FAMILY
from pipeline.request.spec import Spec

_PROMPTS = {Motion.STILL: "a still picture, nothing moves", Motion.GENTLE: "waves on the beach"}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", default=",".join(MICRO_FAMILY.presets))
    parser.add_argument("--pictures", type=Path, default=SAMPLES)
    arguments = parser.parse_args()
    pictures = sorted(arguments.pictures.glob("*.jpg"))
    if not pictures:
        parser.error(f"no .jpg in {arguments.pictures}")
    load = Load(model=MICRO, device="cpu", dtype="float32")
    generator = ClipGenerator(load, lambda _: None, print, limits=NO_LIMITS)
    print(
        f"{'preset':10}{'picture':14}{'still':>8}{'moving':>8}{'similarity':>12}{'grey':>8}{'black':>7}"
    )
    refused = count = 0
    try:
        for preset in arguments.presets.split(","):
            for picture in pictures:
                figures = {m: await measure(generator, preset, picture, m) for m in Motion}
                every = figures.values()
                print(
                    f"{preset:10}{picture.stem:14}"
                    f"{figures[Motion.STILL].motion:8.2f}"
                    f"{min(f.motion for m, f in figures.items() if m is not Motion.STILL):8.2f}"
                    f"{min(f.similarity for f in every):12.3f}"
                    f"{max(f.grey for f in every):8.3f}{max(f.black for f in every):7.2f}",
                    flush=True,
                )
                refused += sum(find_flaw(f, QualityLimits()) is not None for f in every)
                count += len(figures)
    finally:
        await generator.close()
    print(f"{refused} of {count} clips would be refused")


async def measure(
    generator: ClipGenerator, name: str, picture: Path, motion: Motion
) -> Measurements:
    preset = MICRO_FAMILY.presets[name]
    spec = Spec(
        prompt=_PROMPTS.get(motion, f"camera {motion}"),
        preset=name,
        width=preset.side,
        height=preset.side,
        frames=preset.frames,
        fps=preset.fps,
        motion_fps=MICRO_FAMILY.motion_fps,
        steps=preset.steps,
        guidance=preset.guidance,
        guidance_rescale=preset.guidance_rescale,
        seed=1,
    )
    with tempfile.TemporaryDirectory() as folder:
        clean = Path(folder) / "picture.png"
        with Image.open(picture) as opened:
            ImageOps.fit(opened.convert("RGB"), (preset.side, preset.side)).save(clean)
        rung = Rung(Mode.RESIDENT, spec.width, spec.height, spec.frames)
        request = GenerationRequest("bench", spec, (rung,), lambda *_: 0, clean, Path(folder))
        result = await generator.generate(request, lambda _: None)
    assert isinstance(result, Clip), (
        result.reason if isinstance(result, GenerationFailure) else result
    )
    return result.made.measurements


if __name__ == "__main__":
    asyncio.run(main())
