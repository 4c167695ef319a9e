"""On a CUDA card, in half precision, no operation mixes devices or types, in any mode."""

import pytest
import torch
from PIL import Image

from pipeline.memory.modes import Mode
from pipeline.request.presets import MICRO
from pipeline.request.sampling_plan import SamplingStep
from pipeline.worker import placement
from pipeline.worker.diffusion.conditioning import encode_conditions
from pipeline.worker.diffusion.sampler import make_predictor
from pipeline.worker.model.loader import load_model
from tests.bench.memory_count import frames_in_chunks
from tests.card import on_a_card

_STEPS = (
    SamplingStep(True, True),
    SamplingStep(True, False),
    SamplingStep(False, True),
    SamplingStep(False, False),
)


@pytest.mark.slow
@pytest.mark.parametrize("mode", Mode)
def test_a_clip_in_half_precision_is_all_on_the_card(mode: Mode) -> None:
    model = load_model(MICRO, "cpu", "float16", on_step=lambda: None)
    with on_a_card(model):
        cond, uncond = encode_conditions(
            model,
            Image.new("RGB", (64, 64)),
            ["waves", "static"],
            frames=3,
            fps=16,
            vae_tiling=mode.policy.vae_tiling,
            on_step=lambda: None,
        )
        assert cond.latents.device == model.device
        assert cond.latents.dtype == torch.float16
        latents = torch.empty(cond.latents.shape, device=model.device)
        time = torch.empty((), dtype=torch.long)  # as the schedulers have them: on the host
        with placement.unet_on_device(model, mode) as unet:
            sequential = mode.policy.sequential_cfg
            predict = make_predictor(
                unet, cond, uncond, 9.0, _STEPS, rescale=0.2, sequential_cfg=sequential
            )
            for _ in _STEPS:
                prediction = predict(latents, time)
                assert (prediction.device, prediction.dtype) == (model.device, torch.float32)
        frames_in_chunks(model, mode, latents)
