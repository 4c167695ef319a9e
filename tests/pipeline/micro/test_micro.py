"""The embedded checkpoint: that it stays small, shows the picture and moves as prompted."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
from diffusers import I2VGenXLUNet
from diffusers.pipelines.deprecated.i2vgen_xl.pipeline_i2vgen_xl import I2VGenXLPipeline
from PIL import Image
from torch import Tensor, nn

from pipeline.micro.training import heldout, motions, text
from pipeline.micro.training.clip import Setting, generate_clip, load_on_cpu
from pipeline.micro.training.cost import measure_costs
from pipeline.micro.training.metrics import bar, decibels, inner, judge
from pipeline.micro.training.motions import Motion
from pipeline.micro.training.trainer import TrainingStage, train_stage
from pipeline.request.presets import MICRO_FOLDER
from pipeline.request.sampling_plan import SAVINGS, Saving
from pipeline.worker.model.loader import LoadedModel

SETTING = Setting(steps=4)  # grainier than the demo's 12, and three times as fast
LARGEST = 10_000_000  # bytes of all files together


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    torch.set_num_threads(1)
    return load_on_cpu()


def photograph(width: int = 64, height: int = 64) -> Image.Image:
    with Image.open(heldout.PHOTOGRAPHS / "chelsea.jpg") as image:
        return image.resize((width, height), Image.Resampling.LANCZOS)


def test_size_and_layout() -> None:
    files = [path for path in MICRO_FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LARGEST
    index = json.loads((MICRO_FOLDER / "model_index.json").read_text())
    assert index["_class_name"] == "I2VGenXLPipeline"
    assert index["unet"] == ["diffusers", "I2VGenXLUNet"]


def test_diffusers_itself_loads_it() -> None:
    pipeline = I2VGenXLPipeline.from_pretrained(MICRO_FOLDER)
    index = json.loads((MICRO_FOLDER / "model_index.json").read_text())
    parts = {name: value[1] for name, value in index.items() if isinstance(value, list)}
    assert parts == {name: type(part).__name__ for name, part in pipeline.components.items()}
    assert float(pipeline.scheduler.alphas_cumprod[-1]) == 0  # zero terminal SNR


def test_importing_the_package_stays_light() -> None:
    code = "import sys, pipeline.micro; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[3]
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
def test_prompts_are_understood(model: LoadedModel, prompt: str, motion: Motion) -> None:
    with torch.no_grad():
        strength = text.motion_logits(model.text_encoder, text.tokens(model.tokenizer, [prompt]))
    assert list(Motion)[int(strength.argmax())] is motion


def test_fresh_prompts_of_the_grammar_are_understood(model: LoadedModel) -> None:
    assert text.accuracy(model.tokenizer, model.text_encoder, seed=5, count=300) >= 0.99


def test_the_tokenizer_is_the_same_at_every_run(tmp_path: Path) -> None:
    runs = [tmp_path / "first", tmp_path / "second"]
    for folder in runs:
        text.build_tokenizer(folder)
    first, second = ((folder / "tokenizer.json").read_bytes() for folder in runs)
    assert first == second


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
            stage = TrainingStage("tiny", 30, 1e-2, layer, list(layer.parameters()), loss)
            train_stage(stage, folder, seed=1, stop=stop)
        return layer.weight.detach().clone()

    assert torch.equal(run(tmp_path / "broken", 11, 30), run(tmp_path / "whole", 30))


@pytest.mark.slow
def test_meets_the_bar_on_a_photograph(model: LoadedModel) -> None:
    picture = heldout.photographs(SETTING)[1]
    report = judge(model, picture, SETTING, photograph=True)
    assert all(line.met for line in bar(report)), bar(report)
    assert report.of(Motion.STILL).warp > 28


@pytest.mark.slow
def test_random_weights_show_nothing() -> None:
    torch.manual_seed(0)
    model = load_on_cpu()
    model.unet = I2VGenXLUNet.from_config(model.unet.config).eval()
    model.weights.register(model.unet)
    clip = generate_clip(model, photograph(), "still", SETTING._replace(steps=2))
    assert decibels(clip, heldout.to_tensor(photograph()).expand_as(clip)) < 15  # the bar is 25


@pytest.mark.slow
def test_a_prompt_without_a_known_motion_moves_gently(model: LoadedModel) -> None:
    picture = heldout.photographs(SETTING)[1]
    still, gentle = (
        heldout.truth(picture, motion, SETTING) for motion in (Motion.STILL, Motion.GENTLE)
    )
    prompt = heldout.PROMPTS[Motion.GENTLE]
    last = inner(generate_clip(model, heldout.to_image(still[0]), prompt, SETTING)[-1:])
    assert decibels(last, inner(gentle[-1:])) > decibels(last, inner(still[-1:])) + 3


@pytest.mark.slow
def test_seeds_differ_and_repeat(model: LoadedModel) -> None:
    first, again, other = (
        generate_clip(model, photograph(), "zoom in", SETTING._replace(steps=2), seed)
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert float((first - other).abs().mean()) * 127.5 > 0.2


@pytest.mark.slow
def test_guidance_with_full_rescale_keeps_the_clip(model: LoadedModel) -> None:
    plain = generate_clip(model, photograph(), "camera panning right", SETTING)
    for guidance in (2.0, 20.0):
        setting = SETTING._replace(guidance=guidance, rescale=1.0)
        guided = generate_clip(model, photograph(), "camera panning right", setting)
        assert decibels(guided, plain) > 25


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height", "frames"), [(48, 48, 8), (96, 64, 16), (128, 128, 8)])
def test_other_sizes_work(model: LoadedModel, width: int, height: int, frames: int) -> None:
    setting = Setting(width=width, height=height, frames=frames, steps=2)
    picture = heldout.photographs(setting)[1]
    true = heldout.truth(picture, Motion.ZOOM_OUT, setting)
    clip = generate_clip(model, heldout.to_image(true[0]), "slow zoom out", setting)
    assert clip.shape == (frames, 3, height, width)
    assert decibels(clip[:1], true[:1]) > 25
    moved = heldout.seen(Motion.ZOOM_OUT, setting)[-1:]
    assert decibels(clip[-1:], true[-1:], moved) > decibels(true[:1], true[-1:], moved) + 3


@pytest.mark.slow
def test_the_price_of_each_saving_is_told(model: LoadedModel) -> None:
    setting = Setting(width=48, height=48, frames=3, steps=11, guidance=9.0)
    picture = heldout.photographs(setting)[1]
    rows = {
        row["case"]: row for row in measure_costs(model, setting, [picture], [Motion.PAN_RIGHT])
    }
    alone = {f"{saving} alone" for saving in get_args(Saving)}
    assert rows.keys() == {*alone, *SAVINGS}
    assert (rows["exact"]["work_left"], rows["exact"]["psnr_to_exact_db"]) == (1.0, None)
    assert (rows["exact"]["steps"], rows["fast"]["steps"]) == (11, 10)
    for name, row in rows.items():
        assert (row["work_left"] < 1) is (name != "exact")
    for row in (row for name, row in rows.items() if name != "exact"):
        assert 20 < row["psnr_to_exact_db"] < 90
        assert row["motion_right"] == row["clips"] == 1
    assert rows["fast"]["work_left"] < rows["balanced"]["work_left"]
