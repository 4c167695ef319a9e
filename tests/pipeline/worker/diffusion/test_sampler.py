"""Sampling loop and conditioning, compared with the deprecated pipeline of diffusers."""

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.pipelines.deprecated.i2vgen_xl.pipeline_i2vgen_xl import I2VGenXLPipeline
from PIL import Image
from torch import Tensor

from pipeline.checkpoint.text_limit import text_limit_of
from pipeline.memory.modes import Mode
from pipeline.request.presets import MICRO_FOLDER
from pipeline.worker.diffusion.conditioning import embed_image, embed_text, encode_conditions
from pipeline.worker.diffusion.decode import decode
from pipeline.worker.diffusion.sampler import (
    noise_for,
    predict_guided,
    predict_unguided,
    rescale_guidance,
    sample,
    scheduler_for,
    set_times,
)
from pipeline.worker.model.loader import LoadedModel
from tests.pipeline.worker.kit import a_picture

_PROMPT = "the camera pans left"
_NEGATIVE = "blurry, static"
_FRAMES = 8

# ali-vilab/i2vgen-xl, scheduler/scheduler_config.json
_FULL_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "squaredcos_cap_v2",
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "set_alpha_to_one": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


@pytest.fixture(scope="module")
def reference() -> I2VGenXLPipeline:
    """Loaded by diffusers' own code, with what transformers 5 took from its text encoder."""
    pipeline = I2VGenXLPipeline.from_pretrained(MICRO_FOLDER, dtype=torch.float32)
    object.__setattr__(pipeline.text_encoder, "text_model", pipeline.text_encoder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def mode_for_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference draws the picture's latents from the global generator; i2vd takes the mode."""
    monkeypatch.setattr(
        DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode()
    )


@torch.no_grad()
def ours(
    model: LoadedModel,
    noise: Tensor,
    *,
    guidance: float,
    steps: int = 4,
    sequential: bool = False,
    scheduler: dict[str, Any] | None = None,
    size: tuple[int, int] = (32, 32),
) -> Tensor:
    cond, uncond = encode_conditions(
        model,
        a_picture(*size),
        [_PROMPT, _NEGATIVE][: 2 if guidance > 1 else 1],
        frames=_FRAMES,
        fps=16,
        on_step=lambda: None,
    )
    predict = (
        predict_guided(model.unet, cond, uncond, guidance, sequential_cfg=sequential)
        if uncond
        else predict_unguided(model.unet, cond)
    )
    how = scheduler_for(scheduler or model.scheduler, "ddim", None)
    return sample(predict, noise, how, steps, lambda _: None)


def noise(size: tuple[int, int] = (32, 32)) -> Tensor:
    return noise_for(5, (1, 4, _FRAMES, size[1] // 2, size[0] // 2))


def theirs(
    pipeline: I2VGenXLPipeline, latents: Tensor, guidance: float, output_type: str = "latent"
) -> Any:
    height, width = (2 * side for side in latents.shape[-2:])
    return pipeline(
        prompt=_PROMPT,
        negative_prompt=_NEGATIVE,
        image=a_picture(width, height),
        height=height,
        width=width,
        target_fps=16,
        num_frames=_FRAMES,
        num_inference_steps=4,
        guidance_scale=guidance,
        latents=latents.clone(),
        output_type=output_type,
    ).frames


@pytest.mark.usefixtures("mode_for_sample")
@pytest.mark.parametrize("guidance", [1.0, 9.0])
def test_same_latents_as_the_reference(
    micro: LoadedModel, reference: I2VGenXLPipeline, guidance: float
) -> None:
    mine, other = ours(micro, noise(), guidance=guidance), theirs(reference, noise(), guidance)

    assert mine.abs().mean() > 0.05
    torch.testing.assert_close(mine, other, atol=2e-4, rtol=1e-4)


@pytest.mark.usefixtures("mode_for_sample")
@pytest.mark.parametrize("guidance", [1.0, 9.0])
def test_same_latents_as_the_reference_with_the_full_models_schedule(
    micro: LoadedModel,
    reference: I2VGenXLPipeline,
    monkeypatch: pytest.MonkeyPatch,
    guidance: float,
) -> None:
    monkeypatch.setattr(reference, "scheduler", DDIMScheduler.from_config(_FULL_SCHEDULER))

    mine = ours(micro, noise(), guidance=guidance, scheduler=_FULL_SCHEDULER)

    other = theirs(reference, noise(), guidance)
    torch.testing.assert_close(mine, other, atol=1e-3, rtol=1e-3)


@pytest.mark.usefixtures("mode_for_sample")
def test_same_frames_as_the_reference(micro: LoadedModel, reference: I2VGenXLPipeline) -> None:
    with torch.no_grad():
        latents = ours(micro, noise(), guidance=1.0)
        mine = decode(micro, latents, Mode.CHUNKED.policy, on_step=lambda _: None)

    other = theirs(reference, noise(), 1.0, output_type="np")[0]
    assert abs(mine / 255.0 - other).max() <= 0.6 / 255.0


def test_the_prompt_is_embedded_by_the_penultimate_layer(
    micro: LoadedModel, reference: I2VGenXLPipeline
) -> None:
    reference._guidance_scale = 9.0
    with torch.no_grad():
        text, negative = reference.encode_prompt(
            _PROMPT, torch.device("cpu"), 1, _NEGATIVE, clip_skip=1
        )
        torch.testing.assert_close(embed_text(micro, _PROMPT), text)
        torch.testing.assert_close(embed_text(micro, _NEGATIVE), negative)
        last = reference.encode_prompt(_PROMPT, torch.device("cpu"), 1, _NEGATIVE)[0]
    assert not torch.allclose(text, last)


def test_a_prompt_is_embedded_once(micro: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.no_grad():
        first = embed_text(micro, "a prompt of its own")
        monkeypatch.setattr(micro, "text_encoder", None)
        assert torch.equal(embed_text(micro, "a prompt of its own"), first)


def test_a_picture_is_embedded_once_in_each_size(
    micro: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrored = a_picture(72, 40).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    with torch.no_grad():
        first = embed_image(micro, a_picture(72, 40))
        others = [embed_image(micro, each) for each in (a_picture(40, 72), mirrored)]
        monkeypatch.setattr(micro, "image_encoder", None)
        assert torch.equal(embed_image(micro, a_picture(72, 40)), first)
        assert torch.equal(embed_image(micro, mirrored), others[1])
    assert not any(torch.equal(first, other) for other in others)


def test_a_prompt_that_is_too_long_is_truncated_and_what_is_unread_is_known(
    micro: LoadedModel,
) -> None:
    limit = text_limit_of(micro.name)
    assert limit is not None
    prompt = "cat " * 75 + "The tail, End"
    with torch.no_grad():
        embedded = embed_text(micro, prompt)
        assert embedded.shape[1] == 77
        assert limit.unread(prompt) == "The tail, End"
        assert torch.equal(embed_text(micro, "cat " * 75 + "another"), embedded)
        assert limit.unread("cat " * 75) == ""


def test_sequential_cfg_matches_one_batch(micro: LoadedModel) -> None:
    together = ours(micro, noise(), guidance=9.0)
    sequential = ours(micro, noise(), guidance=9.0, sequential=True)
    torch.testing.assert_close(sequential, together, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("spacing", "steps", "first"),
    [("trailing", 50, 999), ("trailing", 10, 999), (None, 50, 981), ("leading", 10, 901)],
)
def test_trailing_spacing_starts_at_pure_noise(spacing: Any, steps: int, first: int) -> None:
    for sampler in ("ddim", "dpm++2m", "unipc"):
        scheduler = scheduler_for(_FULL_SCHEDULER, sampler, spacing)
        set_times(scheduler, steps)
        assert len(scheduler.timesteps) == steps
        if sampler == "ddim" or spacing == "trailing":
            assert scheduler.timesteps[0] == first


@pytest.mark.parametrize("sampler", ["ddim", "dpm++2m", "unipc"])
def test_every_sampler_converges_to_a_known_clip(sampler: Any) -> None:
    """A model that knows the answer, in v-prediction: all samplers must arrive there.

    What they tell on the way is the answer from the first step on.
    """
    clip = torch.linspace(-1, 1, 2 * 3 * 4).reshape(1, 1, 2, 3, 4)
    scheduler = scheduler_for(_FULL_SCHEDULER, sampler, "trailing")
    shape = DDIMScheduler.from_config(_FULL_SCHEDULER).alphas_cumprod

    def predict(latents: Tensor, time: Tensor) -> Tensor:
        kept, lost = shape[int(time)].sqrt(), (1 - shape[int(time)]).sqrt()
        wrong = (latents - kept * clip) / lost
        return kept * wrong - lost * clip

    start = noise_for(1, tuple(clip.shape))
    estimates: list[Tensor] = []
    found = sample(predict, start, scheduler, 12, estimates.append)

    torch.testing.assert_close(found, clip, atol=0.02, rtol=0)
    assert len(estimates) == 12
    for estimate in estimates:
        torch.testing.assert_close(estimate, clip, atol=0.02, rtol=0)


def test_a_seed_gives_the_same_noise_every_time() -> None:
    torch.manual_seed(0)
    first = noise_for(2**63 - 1, (2, 3))
    torch.manual_seed(1)
    assert torch.equal(noise_for(2**63 - 1, (2, 3)), first)
    assert not torch.equal(noise_for(7, (2, 3)), first)


def test_the_global_generator_is_not_used(micro: LoadedModel) -> None:
    torch.manual_seed(0)
    first = ours(micro, noise(), guidance=1.0, steps=2)
    torch.manual_seed(1)
    assert torch.equal(ours(micro, noise(), guidance=1.0, steps=2), first)


def test_guidance_rescale_restores_the_deviation() -> None:
    prompt = torch.randn(1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    inflated = 5 * prompt + 0.1

    torch.testing.assert_close(rescale_guidance(inflated, prompt, 1.0).std(), prompt.std())
    torch.testing.assert_close(rescale_guidance(inflated, prompt, 0.0), inflated)


def test_a_cancel_between_two_steps() -> None:
    done = []

    def step(_: Tensor) -> None:
        done.append(1)
        if len(done) == 3:
            raise KeyError

    start = noise_for(1, (1, 4, 2, 2, 2))
    with pytest.raises(KeyError):
        sample(lambda x, t: x, start, scheduler_for(_FULL_SCHEDULER, "ddim", None), 10, step)
    assert len(done) == 3
