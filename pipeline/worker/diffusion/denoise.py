"""Denoising of a clip: combines the model, memory mode, sampling plan and conditions."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from pipeline.memory.modes import Mode
from pipeline.request.sampling_plan import SamplingPlan
from pipeline.worker import placement
from pipeline.worker.diffusion.conditioning import Conditions
from pipeline.worker.diffusion.sampler import make_predictor, noise_for, sample, scheduler_for
from pipeline.worker.model.loader import LoadedModel
from pipeline.worker.optimizations.cuda_graph import cuda_graphed
from pipeline.worker.optimizations.registry import uses_cuda_graph


def denoise(
    model: LoadedModel,
    mode: Mode,
    plan: SamplingPlan,
    cond: Conditions,
    uncond: Conditions | None,
    *,
    seed: int,
    guidance: float,
    rescale: float,
    on_step: Callable[[Tensor], None],
) -> Tensor:
    """Return the latents of the clip, (1, 4, frames, height, width) float32.

    `on_step` gets the estimate of the clean latents after each step. Out-of-memory errors
    propagate.
    """
    use_graph = uses_cuda_graph(model.device, mode.policy, plan)
    with placement.unet_on_device(model, mode) as unet:
        return sample(
            make_predictor(
                unet,
                cond,
                uncond,
                guidance,
                plan.sampling_steps,
                rescale=rescale,
                sequential_cfg=mode.policy.sequential_cfg,
                wrap=partial(cuda_graphed, device=model.device) if use_graph else None,
            ),
            noise_for(seed, tuple(cond.latents.shape)).to(model.device),
            scheduler_for(model.scheduler, plan.sampler, plan.spacing),
            plan.steps,
            on_step,
        )
