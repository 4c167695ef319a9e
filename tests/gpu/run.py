"""Run the full-size model, with random weights, in every preset and mode on a CUDA device.

    python -m tests.gpu.run [--presets preview,standard] [--modes resident,lean] [--steps 10]

Time and memory do not depend on what the weights are, so no checkpoint is needed. Prints a table
and writes results.json and results.md to tests/gpu/results/. A step's time is scaled to the
preset's number of steps.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipeline.gate import Limits
from pipeline.ladder import Mode, Rung
from pipeline.memory import predicted_peak
from pipeline.presets import I2VGEN_XL
from pipeline.protocol import Make
from pipeline.spec import Spec

RESULTS = Path(__file__).parent / "results"
_COLUMNS = ("preset", "mode", "seconds", "peak_gb", "predicted_gb", "outcome")


def main() -> None:
    arguments = _arguments()
    import torch

    if not torch.cuda.is_available():
        sys.exit("no CUDA device here: this measures the full model on a GPU, and nothing else")
    torch.set_grad_enabled(False)
    model = build()
    rows = []
    for preset in arguments.presets.split(","):
        for mode in map(Mode, arguments.modes.split(",")):
            rows.append(measure(model, preset, mode, arguments.steps))
            print("  ".join(f"{rows[-1][column]!s:>12}" for column in _COLUMNS), flush=True)
    report(rows, torch.cuda.get_device_name())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", default=",".join(I2VGEN_XL.presets))
    parser.add_argument("--modes", default=",".join(Mode))
    parser.add_argument("--steps", type=int, default=10)
    return parser.parse_args()


def build() -> Any:
    """A model as wide as the published one, filled with small noise on the host in fp16."""
    import torch
    from diffusers import AutoencoderKL, I2VGenXLUNet
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTokenizer,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    from pipeline.presets import MICRO_FOLDER
    from pipeline.source import find
    from pipeline.worker.model import Model
    from pipeline.worker.weights import Weights, assign

    text = CLIPTextConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=23,
        num_attention_heads=16,
        hidden_act="gelu",
    )
    eye = CLIPVisionConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=16,
        patch_size=14,
        projection_dim=1024,
        hidden_act="gelu",
    )
    with torch.device("meta"):
        networks = {
            "unet": I2VGenXLUNet(),
            "vae": AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
            ),
            "text_encoder": CLIPTextModel(text),
            "image_encoder": CLIPVisionModelWithProjection(eye),
        }
    weights = Weights(torch.device("cuda"))
    for name, network in networks.items():
        network.requires_grad_(False).eval()
        noise = {
            key: torch.empty(value.shape, dtype=torch.float16).normal_(std=0.01)
            for key, value in network.state_dict().items()
        }
        assign(network, noise, name)
        weights.hold(network)
    micro = find("micro", small=True)
    eye_config = micro.configs["feature_extractor"] | {"crop_size": {"width": 224, "height": 224}}
    scheduler = {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"}
    return Model(
        name="random weights",
        digest="",
        dtype=torch.float16,
        tokenizer=CLIPTokenizer.from_pretrained(MICRO_FOLDER / "tokenizer"),
        scheduler=scheduler | {"rescale_betas_zero_snr": True, "timestep_spacing": "leading"},
        eye=dict(eye_config),
        weights=weights,
        prompts={},
        **networks,
    )


class _Nobody:
    """A channel that nobody listens to."""

    def send(self, reply: Any) -> None:
        pass

    def waiting(self) -> bool:
        return False


def measure(model: Any, name: str, mode: Mode, steps: int) -> dict[str, Any]:
    """One clip of few steps; its seconds as if it had all of them."""
    import numpy as np
    import torch
    from PIL import Image

    from pipeline.worker import clip
    from pipeline.worker.budget import Budget
    from pipeline.worker.decode import release
    from pipeline.worker.errors import Spoilt, is_out_of_memory
    from pipeline.worker.watch import Watch

    preset = I2VGEN_XL.presets[name]
    rung = Rung(mode, preset.side, preset.side, preset.frames)
    budget = Budget(model.device, None)
    watch = Watch(_Nobody(), "encode", settle=torch.cuda.synchronize)  # type: ignore[arg-type]
    spec = Spec(
        prompt="waves",
        negative_prompt="static",
        preset=name,
        width=rung.width,
        height=rung.height,
        frames=rung.frames,
        fps=8,
        motion_fps=16,
        steps=steps,
        guidance=9.0,
        seed=1,
    )
    outcome = "made"
    for network in model.networks:
        model.weights.leave(network)
    release(model.device)
    with tempfile.TemporaryDirectory() as folder, budget.kept():
        noise = np.random.default_rng(0).integers(0, 255, (rung.height, rung.width, 3), np.uint8)
        Image.fromarray(noise).save(f"{folder}/clean.png")
        order = Make(
            job="gpu",
            spec=spec,
            mode=mode,
            width=rung.width,
            height=rung.height,
            frames=rung.frames,
            picture=f"{folder}/clean.png",
            staging=folder,
            limits=Limits(black=1.0, grey=1.0, motion=0.0, likeness=-1.0),  # it dreams of noise
        )
        try:
            if mode is Mode.RESIDENT:
                model.bring_all()
            clip.make(model, order, watch, budget)
        except Spoilt as error:
            outcome = f"spoilt in {watch.stage}: {error}"
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            outcome = f"out of memory in {watch.stage}"
    seconds = dict(watch.seconds)
    seconds["denoise"] = seconds.get("denoise", 0.0) * preset.steps / steps
    return {
        "preset": name,
        "mode": str(mode),
        "seconds": round(sum(seconds.values()), 1),
        "peak_gb": round((budget.peak() or 0) / 1e9, 2),
        "predicted_gb": round(predicted_peak(rung, I2VGEN_XL, "float16") / 1e9, 2),
        "outcome": outcome,
        "stages": seconds,
    }


def report(rows: list[dict[str, Any]], device: str) -> None:
    """Write the rows as JSON and as a table in Markdown."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "results.json").write_text(json.dumps({"device": device, "rows": rows}, indent=1))
    lines = [
        f"# {device}",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        "|" + " --- |" * len(_COLUMNS),
        *(f"| {' | '.join(str(row[column]) for column in _COLUMNS)} |" for row in rows),
    ]
    (RESULTS / "results.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
