"""FLOP count of denoising: matrix products, counted on `meta` tensors without weights."""

from functools import cache

import torch
from diffusers import I2VGenXLUNet
from torch.utils.flop_counter import FlopCounterMode

from pipeline.request.sampling_plan import SamplingPlan
from pipeline.worker.diffusion.conditioning import Conditions
from pipeline.worker.diffusion.sampler import predict_unguided
from pipeline.worker.optimizations.registry import OPTIMIZATIONS, apply
from pipeline.worker.optimizations.step_invariants import FeatureCache


def denoising(plan: SamplingPlan, frames: int, side: int) -> int:
    """Count the FLOPs of a clip of the published model, with `side` x `side` latents."""
    return sum(
        work(frames, side, guided=step.guided)[0 if step.fresh else 1]
        for step in plan.sampling_steps
    )


@cache
@torch.no_grad()
def work(frames: int, side: int, *, guided: bool) -> tuple[int, int]:
    """Count the FLOPs of a prediction: full, and with features from the feature cache.

    With all optimizations, and without the step invariants.
    """
    with torch.device("meta"):
        unet = I2VGenXLUNet().eval()
        width = unet.config.cross_attention_dim
        latents = torch.empty(1, 4, frames, side, side)
        one = Conditions(
            torch.empty(1, 77, width), torch.empty(1, 1, width), latents, torch.empty(1)
        )
        time = torch.empty(())
    feature_cache: FeatureCache = {}
    predict = predict_unguided(unet, one.join(one) if guided else one, feature_cache)

    def counted() -> int:
        with FlopCounterMode(display=False) as counter:
            predict(latents, time)
        return int(counter.get_total_flops())

    with apply(unet, OPTIMIZATIONS):
        predict(latents, time)  # computes the step invariants
        feature_cache.clear()
        return counted(), counted()
