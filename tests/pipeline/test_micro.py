"""The embedded checkpoint: that it loads, stays small, shows the picture and moves as prompted."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from diffusers import I2VGenXLUNet
from PIL import Image
from torch import Tensor, nn

from pipeline.micro import evaluate, layout, motions, text
from pipeline.micro.lesson import Lesson, learn
from pipeline.micro.motions import Motion
from pipeline.micro.sampling import sample, to_image

SIDE = 64
LARGEST = 10_000_000  # bytes of all files together


class Measured(NamedTuple):
    """What a clip of a held-out photograph shows."""

    first_frame: float  # decibels against the photograph
    shift: int  # pixels by which the content moved to the right over the clip


@pytest.fixture(scope="module")
def model() -> layout.Model:
    return layout.load()


def photograph() -> Image.Image:
    image = Image.open(evaluate.PHOTOGRAPHS / "chelsea.jpg")
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def measure(model: layout.Model, prompt: str) -> Measured:
    clip = sample(model, photograph(), prompt, frames=8, steps=4)
    true = motions.clip(evaluate.to_tensor(photograph())[0], Motion.STILL, [0.0], SIDE, SIDE)
    everywhere = torch.ones(1, 1, SIDE, SIDE)
    return Measured(evaluate.decibels(clip[:1], true, everywhere), shift(clip[0], clip[-1]))


def shift(first: Tensor, last: Tensor, furthest: int = 9) -> int:
    """The whole number of pixels to the right that best explains the last frame."""
    inner = slice(furthest, -furthest)
    error = {
        pixels: float((last.roll(-pixels, -1) - first)[..., inner].pow(2).mean())
        for pixels in range(-furthest, furthest + 1)
    }
    return min(error, key=lambda pixels: error[pixels])


def test_size_and_layout() -> None:
    files = [path for path in layout.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LARGEST
    index = json.loads((layout.FOLDER / "model_index.json").read_text())
    assert index["_class_name"] == "I2VGenXLPipeline"
    assert index["unet"] == ["diffusers", "I2VGenXLUNet"]
    parts = {name for name, value in index.items() if isinstance(value, list)}
    assert parts == set(layout.Model._fields)
    assert all((layout.FOLDER / part).is_dir() for part in parts)


def test_every_part_loads_as_its_class(model: layout.Model) -> None:
    index = json.loads((layout.FOLDER / "model_index.json").read_text())
    for name, part in zip(model._fields, model, strict=True):
        assert type(part).__name__ == index[name][1]
    assert model.scheduler.config.rescale_betas_zero_snr
    assert float(model.scheduler.alphas_cumprod[-1]) == 0


def test_importing_the_package_stays_light() -> None:
    code = "import sys, pipeline.micro; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


@pytest.mark.parametrize(
    ("prompt", "motion"),
    [
        ("camera panning right", Motion.PAN_RIGHT),
        ("The camera pans slowly to the left, cinematic", Motion.PAN_LEFT),
        ("a bird on a branch, camera tilting up", Motion.TILT_UP),
        ("slow zoom in", Motion.ZOOM_IN),
        ("Zooming out from a red car on the left", Motion.ZOOM_OUT),
        ("rotating slowly counterclockwise", Motion.COUNTERCLOCKWISE),
        ("still", Motion.STILL),
        ("A cat turning its head slowly", Motion.GENTLE),
        ("", Motion.GENTLE),
        ("狐狸 🦊", Motion.GENTLE),
    ],
)
def test_prompts_are_understood(model: layout.Model, prompt: str, motion: Motion) -> None:
    with torch.no_grad():
        strength = text.understood(model.text_encoder, text.tokens(model.tokenizer, [prompt]))
    assert list(Motion)[int(strength.argmax())] is motion


@pytest.mark.parametrize("motion", list(Motion))
def test_two_passes_make_the_motion(motion: Motion) -> None:
    side, time = 32, 0.7
    across, down = motions.two_pass_flow(motion, time, side, side)
    x, y = motions.grid(side, side)
    for row, column in ((3, 5), (16, 16), (30, 2)):
        arrives = float(y[row, column] + down[row, column])
        # The first pass is an affine function of the place, so two points fix it along y.
        slope = float(across[1, column] - across[0, column])
        looked = float(across[0, column]) + slope * (arrives - float(y[0, 0]))
        wanted_x, wanted_y = motions.sources(motion, time, side, side)
        assert float(x[row, column]) + looked == pytest.approx(
            float(wanted_x[row, column]), abs=1e-3
        )
        assert arrives == pytest.approx(float(wanted_y[row, column]), abs=1e-3)


def test_a_resumed_lesson_ends_like_an_unbroken_one(tmp_path: Path) -> None:
    def run(folder: Path, *lengths: int) -> Tensor:
        folder.mkdir()
        torch.manual_seed(0)
        layer = nn.Linear(3, 1)

        def loss(rng: random.Random) -> Tensor:
            return (layer(torch.randn(4, 3)) - rng.random()).pow(2).mean()

        for stop in lengths:
            lesson = Lesson("tiny", 30, 1e-2, layer, list(layer.parameters()), loss)
            learn(lesson, folder, seed=1, stop=stop)
        return layer.weight.detach().clone()

    assert torch.equal(run(tmp_path / "broken", 11, 30), run(tmp_path / "whole", 30))


@pytest.mark.slow
def test_shows_the_photograph_and_pans_it(model: layout.Model) -> None:
    right = measure(model, "camera panning right")
    left = measure(model, "camera panning left")
    wanted = round(motions.reach(SIDE, SIDE))
    assert right.first_frame > 25
    assert right.shift == pytest.approx(-wanted, abs=1)
    assert left.shift == pytest.approx(wanted, abs=1)


@pytest.mark.slow
def test_random_weights_would_be_noticed(model: layout.Model) -> None:
    torch.manual_seed(0)
    unet = I2VGenXLUNet.from_config(model.unet.config).eval()
    measured = measure(model._replace(unet=unet), "camera panning right")
    assert measured.first_frame < 15


@pytest.mark.slow
def test_still_stays_still_and_sharp(model: layout.Model) -> None:
    clip = sample(model, photograph(), "still", frames=8, steps=4)
    everywhere = torch.ones(1, 1, SIDE, SIDE)
    assert evaluate.decibels(clip[-1:], clip[:1], everywhere) > 30
    assert evaluate.gradient_energy(clip[-1]) > 0.7 * evaluate.gradient_energy(clip[0])


@pytest.mark.slow
def test_seeds_differ_and_repeat(model: layout.Model) -> None:
    first, again, other = (
        sample(model, photograph(), "zoom in", frames=8, steps=4, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert float((first - other).abs().mean()) * 127.5 > 0.2


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [2.0, 9.0, 20.0])
def test_guidance_with_full_rescale_keeps_the_clip(model: layout.Model, guidance: float) -> None:
    plain = sample(model, photograph(), "camera panning right", frames=8, steps=4)
    guided = sample(
        model,
        photograph(),
        "camera panning right",
        frames=8,
        steps=4,
        guidance=guidance,
        rescale=1.0,
        negative="blurry, motionless, static",
    )
    everywhere = torch.ones(1, 1, SIDE, SIDE)
    assert evaluate.decibels(guided, plain, everywhere.expand(8, -1, -1, -1)) > 25
    assert shift(guided[0], guided[-1]) == shift(plain[0], plain[-1])


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height", "frames"), [(48, 48, 8), (96, 64, 16), (128, 128, 8)])
def test_other_sizes_work(model: layout.Model, width: int, height: int, frames: int) -> None:
    image = photograph().resize((width, height))
    clip = sample(model, image, "slow zoom out", frames=frames, steps=2)
    assert clip.shape == (frames, 3, height, width)
    assert to_image(clip[0]).size == (width, height)
    first = evaluate.to_tensor(image)
    assert evaluate.decibels(clip[:1], first, torch.ones(1, 1, height, width)) > 25
