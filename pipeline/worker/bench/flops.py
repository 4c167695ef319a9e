"""How much work denoising is: operations of matrix products, counted on shapes without weights."""

from functools import cache

import torch
from diffusers import I2VGenXLUNet
from torch.utils.flop_counter import FlopCounterMode

from pipeline.request.sampling_plan import SamplingPlan
from pipeline.worker.diffusion.conditioning import Conditions
from pipeline.worker.diffusion.sampler import predict_unguided
from pipeline.worker.optimizations.registry import OPTIMIZATIONS, apply
from pipeline.worker.optimizations.step_invariants import FeatureCache


def denoising(course: SamplingPlan, frames: int, side: int) -> int:
    """Operations of a clip of the published model with `side` latent cells a side."""
    return sum(
        work(frames, side, guided=turn.guided)[0 if turn.fresh else 1]
        for turn in course.sampling_steps
    )


@cache
@torch.no_grad()
def work(frames: int, side: int, *, guided: bool) -> tuple[int, int]:
    """Operations of a prediction: whole, and with deep features taken from an earlier one.

    As the fast mode makes it on a GPU, without what is computed once a clip.
    """
    with torch.device("meta"):
        unet = I2VGenXLUNet().eval()
        width = unet.config.cross_attention_dim
        latents = torch.empty(1, 4, frames, side, side)
        one = Conditions(
            torch.empty(1, 77, width), torch.empty(1, 1, width), latents, torch.empty(1)
        )
        time = torch.empty(())
    deep: FeatureCache = {}
    predict = predict_unguided(unet, one.join(one) if guided else one, deep)

    def counted() -> int:
        with FlopCounterMode(display=False) as counter:
            predict(latents, time)
        return int(counter.get_total_flops())

    with apply(unet, OPTIMIZATIONS):
        predict(latents, time)  # which computes the clip's constants too
        deep.clear()
        return counted(), counted()
