"""On a CUDA card, in half precision, no operation mixes devices or types, in any mode."""

import pytest
import torch
from PIL import Image

from pipeline.memory.modes import Mode
from pipeline.request.presets import MICRO
from pipeline.request.sampling_plan import Turn
from pipeline.worker import placement
from pipeline.worker.diffusion.conditioning import conditions
from pipeline.worker.diffusion.sampler import predicting
from pipeline.worker.model.loader import load
from tests.bench.memory_count import frames_in_chunks
from tests.card import on_a_card

_TURNS = (Turn(True, True), Turn(True, False), Turn(False, True), Turn(False, False))


@pytest.mark.slow
@pytest.mark.parametrize("mode", Mode)
def test_a_clip_in_half_precision_is_all_on_the_card(mode: Mode) -> None:
    model = load(MICRO, "cpu", "float16", on_step=lambda: None)
    with on_a_card(model):
        wanted, unwanted = conditions(
            model,
            Image.new("RGB", (64, 64)),
            ["waves", "static"],
            frames=3,
            fps=16,
            striped=mode.thrift.stripes,
            on_step=lambda: None,
        )
        assert wanted.latents.device == model.device
        assert wanted.latents.dtype == torch.float16
        latents = torch.empty(wanted.latents.shape, device=model.device)
        time = torch.empty((), dtype=torch.long)  # as the schedulers have them: on the host
        with placement.unet(model, mode) as unet:
            halves = mode.thrift.halves
            predict = predicting(unet, wanted, unwanted, 9.0, _TURNS, rescale=0.2, halves=halves)
            for _ in _TURNS:
                prediction = predict(latents, time)
                assert (prediction.device, prediction.dtype) == (model.device, torch.float32)
        frames_in_chunks(model, mode, latents)
