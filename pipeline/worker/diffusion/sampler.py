"""Sampling loop: from noise to the latents of a clip, step by step.

Plain functions over diffusers' schedulers. A `Predict` is the noise prediction at a timestep, or
what the scheduler's prediction type says. `sample` runs the timesteps. One callback per step serves
progress, preview and cancel. Latents are float32, whatever the type of the model.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor

from pipeline.request.sampling_plan import SamplingStep
from pipeline.request.spec import Sampler, Spacing
from pipeline.worker.diffusion.conditioning import Conditions
from pipeline.worker.optimizations.step_invariants import FeatureCache

Predict = Callable[[Tensor, Tensor], Tensor]
"""(latents (1, 4, frames, height, width) float32, timestep) -> prediction of the same shape."""

_SCHEDULERS = {
    "ddim": DDIMScheduler,
    "dpm++2m": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}


def scheduler_for(config: Mapping[str, Any], sampler: Sampler, spacing: Spacing | None) -> Any:
    """Create a scheduler with the model's noise schedule; `spacing` overrides its own if given."""
    changes = {} if spacing is None else {"timestep_spacing": spacing}
    known = {key: value for key, value in config.items() if not key.startswith("_")}
    return _SCHEDULERS[sampler].from_config(known, **changes)


def noise_for(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Draw standard normal noise, float32, on the CPU: a seed is the same on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def sample(
    predict: Predict,
    noise: Tensor,
    scheduler: Any,
    steps: int,
    on_step: Callable[[Tensor], None],
) -> Tensor:
    """Denoise; return latents with the shape and device of `noise`.

    `on_step` gets the estimate of the clean latents after each step; it may raise to cancel.
    """
    set_times(scheduler, steps)
    latents: Tensor = noise * scheduler.init_noise_sigma
    for time in scheduler.timesteps:
        prediction = predict(scheduler.scale_model_input(latents, time), time)
        stepped = scheduler.step(_fold(prediction), time, _fold(latents))
        latents = _unfold(stepped.prev_sample, len(noise))
        on_step(_unfold(_denoised(stepped, scheduler), len(noise)))
    return latents


def _denoised(stepped: Any, scheduler: Any) -> Tensor:
    """Return the scheduler's estimate of the clean latents; multistep solvers keep it as state."""
    estimate: Tensor | None = getattr(stepped, "pred_original_sample", None)
    return scheduler.model_outputs[-1] if estimate is None else estimate


def set_times(scheduler: Any, steps: int) -> None:
    """Set the timesteps for a number of steps."""
    with warnings.catch_warnings():  # diffusers' multistep solvers convert tensors to numpy
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        scheduler.set_timesteps(steps)


def _fold(clip: Tensor) -> Tensor:
    """Move the frames into the batch: the multistep solvers expect images."""
    return clip.transpose(1, 2).flatten(0, 1)


def _unfold(frames: Tensor, clips: int) -> Tensor:
    return frames.reshape(clips, -1, *frames.shape[1:]).transpose(1, 2)


def predict_unguided(
    unet: Any, conditions: Conditions, feature_cache: FeatureCache | None = None
) -> Predict:
    """Return the model's prediction without guidance, for each row of the conditions.

    `feature_cache` needs the patched forward of `step_invariants`.
    """
    optional = {} if feature_cache is None else {"feature_cache": feature_cache}

    def predict(latents: Tensor, time: Tensor) -> Tensor:
        prediction: Tensor = unet(
            latents.to(conditions.text.dtype).expand(len(conditions.text), -1, -1, -1, -1),
            time,
            fps=conditions.fps,
            image_latents=conditions.latents,
            image_embeddings=conditions.image,
            encoder_hidden_states=conditions.text,
            return_dict=False,
            **optional,
        )[0]
        return prediction.float()

    return predict


def make_predictor(
    unet: Any,
    cond: Conditions,
    uncond: Conditions | None,
    guidance: float,
    steps: Sequence[SamplingStep],
    *,
    rescale: float = 0.0,
    sequential_cfg: bool = False,
    wrap: Callable[[Predict], Predict] | None = None,
) -> Predict:
    """Return the predictor of one clip, to be called once a step.

    A step is guided if there is an unconditional branch and the step is in the guidance interval
    (Kynkäänniemi et al. 2024). `wrap` is applied to both predictors, for CUDA graph capture.
    """
    feature_cache: FeatureCache | None = None if all(step.fresh for step in steps) else {}
    unguided = guided = predict_unguided(unet, cond, feature_cache)
    if uncond is not None:
        guided = predict_guided(
            unet,
            cond,
            uncond,
            guidance,
            rescale=rescale,
            sequential_cfg=sequential_cfg,
            feature_cache=feature_cache,
        )
    upcoming = iter(steps)

    def predict(latents: Tensor, time: Tensor) -> Tensor:
        step = next(upcoming)
        if step.fresh and feature_cache:
            feature_cache.clear()
        return (guided if step.guided else unguided)(latents, time)

    if wrap is not None:
        guided, unguided = wrap(guided), wrap(unguided)
    return predict


def predict_guided(
    unet: Any,
    cond: Conditions,
    uncond: Conditions,
    guidance: float,
    *,
    rescale: float = 0.0,
    sequential_cfg: bool = False,
    feature_cache: FeatureCache | None = None,
) -> Predict:
    """Return the prediction with classifier-free guidance (Ho & Salimans 2022).

    Both CFG branches are one batch. With `sequential_cfg` they run one after the other, which takes
    half the memory and gives the same result up to rounding. See `rescale_guidance` for `rescale`.
    """
    predict_both = predict_unguided(unet, uncond.join(cond), feature_cache)
    predict_uncond = predict_unguided(unet, uncond, feature_cache)
    predict_cond = predict_unguided(unet, cond, feature_cache)

    def predict(latents: Tensor, time: Tensor) -> Tensor:
        if sequential_cfg:
            uncond_prediction = predict_uncond(latents, time)
            cond_prediction = predict_cond(latents, time)
        else:
            uncond_prediction, cond_prediction = predict_both(latents, time).chunk(2)
        prediction = uncond_prediction + guidance * (cond_prediction - uncond_prediction)
        return rescale_guidance(prediction, cond_prediction, rescale) if rescale else prediction

    return predict


def rescale_guidance(guided: Tensor, cond: Tensor, amount: float) -> Tensor:
    """Restore the standard deviation that guidance inflates (Lin et al. 2023, equations 15, 16)."""
    dims = tuple(range(1, guided.ndim))
    factor = cond.std(dims, keepdim=True) / guided.std(dims, keepdim=True)
    return amount * (guided * factor) + (1.0 - amount) * guided
