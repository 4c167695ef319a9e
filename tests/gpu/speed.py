"""Speed on one device: diffusers and i2vd in alternation, and the floor.

For a preset: a step of the UNet with each optimization; the denoising of a clip at each speed
against the unmodified UNet in the same loop; picture and prompt to latents against the diffusers
pipeline; and latents to frames. The floor is the FLOP count of the unmodified UNet divided by the
measured rate of matrix products.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any, get_args
from unittest import mock

import torch
from diffusers import DDIMScheduler
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.pipelines.deprecated.i2vgen_xl.pipeline_i2vgen_xl import I2VGenXLPipeline
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPImageProcessorPil

from pipeline.memory.modes import Mode
from pipeline.request.presets import Speed
from pipeline.request.sampling_plan import sampling_plan
from pipeline.request.spec import Spec
from pipeline.worker import placement
from pipeline.worker.bench.speed import Within, step, time_side_by_side
from pipeline.worker.diffusion.conditioning import Conditions, encode_conditions
from pipeline.worker.diffusion.decode import decode
from pipeline.worker.diffusion.denoise import denoise
from pipeline.worker.diffusion.sampler import noise_for, predict_guided, sample, scheduler_for
from pipeline.worker.model.loader import LoadedModel
from pipeline.worker.optimizations import fused_ops
from pipeline.worker.optimizations.cuda_graph import cuda_graphed
from pipeline.worker.optimizations.registry import apply, select

Row = dict[str, Any]
_NEGATIVE = "blurry, static"


def rows(model: LoadedModel, spec: Spec, rounds: int, seconds: float) -> Iterator[Row]:
    """Yield all rows of a preset, with the guidance scale of the published model.

    After `seconds` no further round of clips starts; the first one always runs.
    """
    spec = spec.model_copy(update={"guidance": 9.0})
    until = time.monotonic() + seconds
    clock = partial(_synchronized_clock, model.device)
    _load_contiguous(model, model.unet)
    rate = matrix_rate(model, clock)
    run = step(model.unet, spec.frames, spec.height // model.vae_factor)
    work = _count_flops(run) * spec.steps
    for row in _steps(model, run, rounds, clock):
        share = work / spec.steps / row["seconds"] / rate
        yield row | {"matrix_share": round(share, 3) if row["case"] == "step, all" else None}
    loops = list(_clips("denoising", *_loops(model, spec), rounds, clock, until))
    for row in loops:
        exact = row["case"] == "denoising, exact"
        yield row | {"matrix_share": round(work / row["seconds"] / rate, 3) if exact else None}
    yield {
        "case": f"floor: {work / 1e15:.3g} PFLOP at {rate / 1e12:.4g} TFLOP/s",
        "reference_seconds": loops[0]["reference_seconds"],
        "seconds": round(work / rate, 4),
        "ratio": round(loops[0]["reference_seconds"] * rate / work, 3),
        "max_abs_diff": None,
        "matrix_share": 1.0,
    }
    for row in _clips("picture to latents", *_pipelines(model, spec), rounds, clock, until):
        yield row | {"matrix_share": None}
    for row in _clips("latents to frames", *_decoders(model, spec), rounds, clock, until):
        yield row | {"matrix_share": None}


def _load_contiguous(model: LoadedModel, network: Any) -> None:
    """Load a network to the device in contiguous memory format, as diffusers does."""
    model.weights.load(network)
    model.weights.set_layout(network, channels_last=False)


def _steps(
    model: LoadedModel, run: Callable[[], Tensor], rounds: int, clock: Callable[[], float]
) -> Iterator[Row]:
    """Time one step of the UNet: each optimization separately, then all, as in a clip."""
    current = run

    @contextmanager
    def optimized() -> Iterator[None]:
        with placement.unet_on_device(model, Mode.RESIDENT):
            yield
        _load_contiguous(model, model.unet)

    @contextmanager
    def without_triton() -> Iterator[None]:
        with fused_ops.using(None), optimized():
            yield

    @contextmanager
    def replayed() -> Iterator[None]:
        nonlocal current
        with optimized():
            current = partial(cuda_graphed(run.func, model.device), *run.args)  # type: ignore[attr-defined]
            current()
            yield
            current = run

    names = select(Mode.RESIDENT.policy, model.device)
    cases: dict[str, Within] = {
        f"step, {name}": partial(apply, model.unet, [name]) for name in names
    }
    if fused_ops.enabled():
        cases["step, all but Triton kernels"] = without_triton
    cases["step, all"] = optimized
    if model.device.type == "cuda":
        cases["step, all, replayed"] = replayed
    yield from time_side_by_side(lambda: current(), cases, rounds, clock)  # noqa: PLW0108 - it changes


def matrix_rate(model: LoadedModel, clock: Callable[[], float]) -> float:
    """Measure the FLOP/s of a large matrix product in the model's type; the median of ten."""
    side = 8192 if model.device.type == "cuda" else 512
    one, other = torch.randn(2, side, side, device=model.device).to(model.dtype)
    taken = []
    for _ in range(12):
        since = clock()
        torch.mm(one, other)
        taken.append(clock() - since)
    return 2 * side**3 / median(taken[2:])


def _synchronized_clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _count_flops(run: Callable[[], Tensor]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def _clips(
    what: str,
    prepare: Callable[[], None],
    reference: Callable[[], Tensor],
    cases: dict[str, Callable[[], Tensor]],
    rounds: int,
    clock: Callable[[], float],
    until: float,
) -> Iterator[Row]:
    """Time whole clips, reference and cases in alternation, after one warm-up of each; medians."""
    runs = {"": reference, **cases}
    prepare()
    first = {name: run() for name, run in runs.items()}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for n in range(rounds):
        if n and time.monotonic() > until:
            break
        prepare()
        for name, run in runs.items():
            since = clock()
            run()
            taken[name].append(clock() - since)
    reference_seconds = median(taken[""])
    for name in cases:
        yield {
            "case": f"{what}, {name}",
            "reference_seconds": round(reference_seconds, 4),
            "seconds": round(median(taken[name]), 4),
            "ratio": round(reference_seconds / median(taken[name]), 3),
            "max_abs_diff": float((first[name].float() - first[""].float()).abs().max()),
        }


Runs = tuple[Callable[[], None], Callable[[], Tensor], dict[str, Callable[[], Tensor]]]
"""Untimed preparation of the reference, the reference, and the cases by speed."""


def _loops(model: LoadedModel, spec: Spec) -> Runs:
    """The unmodified UNet in i2vd's sampling loop, and each speed, under the same conditions."""
    cond, uncond = _conditions(model, spec)
    assert uncond is not None
    noise = noise_for(spec.seed, tuple(cond.latents.shape)).to(model.device)

    def reference() -> Tensor:
        predict = predict_guided(model.unet, cond, uncond, spec.guidance)
        scheduler = scheduler_for(model.scheduler, "ddim", None)
        return sample(predict, noise, scheduler, spec.steps, lambda _: None)

    return (
        partial(_load_contiguous, model, model.unet),
        reference,
        {
            speed: partial(_denoise_clip, model, spec, speed, cond, uncond)
            for speed in get_args(Speed)
        },
    )


def _pipelines(model: LoadedModel, spec: Spec) -> Runs:
    """The diffusers pipeline, and each speed, from picture and prompt.

    The pipeline's networks stay on the device; i2vd loads them for their stage.
    """

    def load_all() -> None:
        for part in (model.unet, model.vae, model.text_encoder, model.image_encoder):
            _load_contiguous(model, part)

    load_all()
    pipeline = stock_pipeline(model)
    noise = noise_for(spec.seed, _shape(model, spec)).to(model.device, model.dtype)
    mode_for_sample = mock.patch.object(
        DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode()
    )

    def reference() -> Tensor:
        with mode_for_sample:
            latents: Tensor = pipeline(
                prompt=spec.prompt,
                negative_prompt=_NEGATIVE,
                image=_picture(spec),
                height=spec.height,
                width=spec.width,
                target_fps=spec.motion_fps,
                num_frames=spec.frames,
                num_inference_steps=spec.steps,
                guidance_scale=spec.guidance,
                latents=noise.clone(),
                output_type="latent",
            ).frames
        return latents

    def generate(speed: Speed) -> Tensor:
        model.embeddings.clear()  # the pipeline has no embedding cache
        return _denoise_clip(model, spec, speed, *_conditions(model, spec))

    return load_all, reference, {speed: partial(generate, speed) for speed in get_args(Speed)}


def _decoders(model: LoadedModel, spec: Spec) -> Runs:
    """VAE decoding a frame at a time, as in the pipeline, and i2vd's; differences in 255ths."""
    latents = noise_for(spec.seed, _shape(model, spec)).to(model.device, model.dtype)

    def reference() -> Tensor:
        chunks = latents[0].transpose(0, 1).split(1)
        values = [model.vae.decode(c / model.vae.config.scaling_factor).sample for c in chunks]
        scaled = torch.cat(values).float().div(2).add(0.5).clamp(0, 1).mul(255).round()
        return scaled.permute(0, 2, 3, 1).cpu()

    def decode_clip() -> Tensor:
        return torch.from_numpy(
            decode(model, latents, Mode.RESIDENT.policy, on_step=lambda _: None)
        )

    return partial(_load_contiguous, model, model.vae), reference, {"exact": decode_clip}


def stock_pipeline(model: LoadedModel) -> I2VGenXLPipeline:
    """Build the diffusers pipeline on the networks of the model."""
    side = model.image_processor["crop_size"]["height"]
    pipeline = I2VGenXLPipeline(
        vae=model.vae,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        image_encoder=model.image_encoder,
        feature_extractor=CLIPImageProcessorPil(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        ),
        unet=model.unet,
        scheduler=DDIMScheduler.from_config(model.scheduler),
    )
    object.__setattr__(model.text_encoder, "text_model", model.text_encoder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _conditions(model: LoadedModel, spec: Spec) -> tuple[Conditions, Conditions | None]:
    return encode_conditions(
        model,
        _picture(spec),
        [spec.prompt, _NEGATIVE],
        frames=spec.frames,
        fps=spec.motion_fps,
        on_step=lambda: None,
    )


def _denoise_clip(
    model: LoadedModel,
    spec: Spec,
    speed: Speed,
    cond: Conditions,
    uncond: Conditions | None,
) -> Tensor:
    return denoise(
        model,
        Mode.RESIDENT,
        sampling_plan(spec.model_copy(update={"speed": speed})),
        cond,
        uncond,
        seed=spec.seed,
        guidance=spec.guidance,
        rescale=0.0,
        on_step=lambda _: None,
    )


def _shape(model: LoadedModel, spec: Spec) -> tuple[int, ...]:
    size = (spec.height // model.vae_factor, spec.width // model.vae_factor)
    return (1, model.unet.config.in_channels, spec.frames, *size)


def _picture(spec: Spec) -> Image.Image:
    across, down = Image.linear_gradient("L"), Image.linear_gradient("L").rotate(90)
    picture = Image.merge("RGB", (across, down, Image.blend(across, down, 0.5)))
    return picture.resize((spec.width, spec.height))
