"""Sampling: from noise to a clip's latents, step by step.

Plain functions over diffusers' schedulers. A `Predict` tells the model's prediction for a latent at
a time; `sample` walks the times; one callback per step serves progress and cancel. The latents and
all arithmetic on them are float32 whatever the model's type is.
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
"""(latents (1, 4, frames, height, width) float32, time) -> prediction of the same shape."""

_SCHEDULERS = {
    "ddim": DDIMScheduler,
    "dpm++2m": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}


def scheduler_for(config: Mapping[str, Any], sampler: Sampler, spacing: Spacing | None) -> Any:
    """A fresh scheduler with the model's noise schedule; `spacing` overrides its own if given."""
    changes = {} if spacing is None else {"timestep_spacing": spacing}
    known = {key: value for key, value in config.items() if not key.startswith("_")}
    return _SCHEDULERS[sampler].from_config(known, **changes)


def noise_for(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise, float32, drawn on the CPU: a seed means the same on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def sample(
    predict: Predict,
    noise: Tensor,
    scheduler: Any,
    steps: int,
    on_step: Callable[[Tensor], None],
) -> Tensor:
    """The clip's latents, shaped and placed as `noise`.

    `on_step` gets what they would become if nothing more were found out; it may raise to give up.
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
    """The scheduler's estimate of the clean latents; the multistep solvers keep theirs."""
    estimate: Tensor | None = getattr(stepped, "pred_original_sample", None)
    return scheduler.model_outputs[-1] if estimate is None else estimate


def set_times(scheduler: Any, steps: int) -> None:
    """Choose the times of so many steps."""
    with warnings.catch_warnings():  # diffusers' multistep solvers make numpy arrays of tensors
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        scheduler.set_timesteps(steps)


def _fold(clip: Tensor) -> Tensor:
    """Frames into the batch: the solvers know pictures only."""
    return clip.transpose(1, 2).flatten(0, 1)


def _unfold(frames: Tensor, clips: int) -> Tensor:
    return frames.reshape(clips, -1, *frames.shape[1:]).transpose(1, 2)


def predict_unguided(
    unet: Any, conditions: Conditions, deep: FeatureCache | None = None
) -> Predict:
    """The model's prediction of one clip as it is, under as many conditions as there are rows.

    With `deep`, which only the faster forwards know, deep features are taken from it.
    """
    more = {} if deep is None else {"deep": deep}

    def predict(latents: Tensor, time: Tensor) -> Tensor:
        prediction: Tensor = unet(
            latents.to(conditions.text.dtype).expand(len(conditions.text), -1, -1, -1, -1),
            time,
            fps=conditions.fps,
            image_latents=conditions.latents,
            image_embeddings=conditions.image,
            encoder_hidden_states=conditions.text,
            return_dict=False,
            **more,
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
    through: Callable[[Predict], Predict] | None = None,
) -> Predict:
    """The predictions of one clip in their turns, for one call a step.

    `guided` away from what is unwanted, or `plain` where that is nothing or the turn says so; each
    goes `through` what is given, if anything.
    """
    deep: FeatureCache | None = None if all(turn.fresh for turn in steps) else {}
    alone = led = predict_unguided(unet, cond, deep)
    if uncond is not None:
        led = predict_guided(
            unet, cond, uncond, guidance, rescale=rescale, sequential_cfg=sequential_cfg, deep=deep
        )
    coming = iter(steps)

    def predict(latents: Tensor, time: Tensor) -> Tensor:
        turn = next(coming)
        if turn.fresh and deep:
            deep.clear()
        return (led if turn.guided else alone)(latents, time)

    if through is not None:
        led, alone = through(led), through(alone)
    return predict


def predict_guided(
    unet: Any,
    cond: Conditions,
    uncond: Conditions,
    guidance: float,
    *,
    rescale: float = 0.0,
    sequential_cfg: bool = False,
    deep: FeatureCache | None = None,
) -> Predict:
    """Classifier-free guidance (Ho & Salimans 2022), optionally rescaled.

    Both branches go through the model as one batch, or with `halves` one after the other, which
    takes half the memory and gives the same up to rounding.
    """
    both = predict_unguided(unet, uncond.join(cond), deep)
    away, towards = predict_unguided(unet, uncond, deep), predict_unguided(unet, cond, deep)

    def predict(latents: Tensor, time: Tensor) -> Tensor:
        if sequential_cfg:
            without, with_prompt = away(latents, time), towards(latents, time)
        else:
            without, with_prompt = both(latents, time).chunk(2)
        prediction = without + guidance * (with_prompt - without)
        return rescale_guidance(prediction, with_prompt, rescale) if rescale else prediction

    return predict


def rescale_guidance(guided: Tensor, with_prompt: Tensor, amount: float) -> Tensor:
    """Give back the deviation that guidance inflates (Lin et al. 2023, equations 15 and 16)."""
    every = tuple(range(1, guided.ndim))
    factor = with_prompt.std(every, keepdim=True) / guided.std(every, keepdim=True)
    return amount * (guided * factor) + (1.0 - amount) * guided
