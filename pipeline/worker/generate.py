"""Generation of one clip, from the prepared PNG to the checked MP4: the stages in order.

`generate_frames` needs the device and `write_clip` does not, so that both can run in parallel for
different clips.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.checkpoint.text_limit import text_limit_of
from pipeline.children.protocol import ClipDone, Generate
from pipeline.quality import Flaw, find_flaw
from pipeline.request.sampling_plan import sampling_plan
from pipeline.request.spec import Spec
from pipeline.worker import placement
from pipeline.worker.diffusion.conditioning import (
    Conditions,
    encode_conditions,
    prompts_of,
    read_picture,
)
from pipeline.worker.diffusion.decode import decode, release
from pipeline.worker.diffusion.denoise import denoise
from pipeline.worker.errors import QualityFailure, SettingsRefused
from pipeline.worker.memory.budget import Budget
from pipeline.worker.model.loader import LoadedModel
from pipeline.worker.output.frames import Frames
from pipeline.worker.output.poster import write_poster
from pipeline.worker.output.preview import Preview
from pipeline.worker.output.quality import examine
from pipeline.worker.output.video import write_video
from pipeline.worker.progress import ProgressReporter

_ENCODE_STEPS = 3


@dataclass(frozen=True)
class RenderedFrames:
    """Unchecked frames of a clip, with all that `write_clip` needs besides."""

    request: Generate
    frames: Frames
    picture: Image.Image
    metadata: dict[str, str]
    peak_memory: int | None
    unread: dict[str, str]


@torch.no_grad()
def generate_frames(
    model: LoadedModel, request: Generate, progress: ProgressReporter, budget: Budget
) -> RenderedFrames:
    """Generate the frames of a request.

    Raises SettingsRefused, QualityFailure and Cancelled; out-of-memory errors propagate.
    """
    check(model, request)
    progress.enter("condition", _ENCODE_STEPS)
    picture = read_picture(Path(request.picture), request.width, request.height)
    cond, uncond = _conditions(model, request, picture, progress)
    preview = Preview(cond.latents[0, :, 0], picture)
    denoised = _denoise(model, request, cond, uncond, progress, preview)
    latents = progress.inject_fault(denoised)
    if not torch.isfinite(latents).all():
        raise QualityFailure(Flaw("not_finite", "the latents are not numbers"))
    del denoised, cond, uncond, preview
    progress.enter("decode", request.frames)
    frames = progress.inject_fault(_decode(model, request, latents, progress))
    return RenderedFrames(
        request,
        frames,
        picture,
        metadata(model, request),
        budget.peak(),
        _unread(model, request.spec),
    )


def write_clip(rendered: RenderedFrames, progress: ProgressReporter) -> ClipDone:
    """Check the quality of the frames and write the MP4 and the poster to staging.

    Raises QualityFailure (after the clip is written), UnusableFile, Cancelled and OSError.
    """
    request = rendered.request
    progress.enter("encode_video", request.frames)
    frames, figures = examine(rendered.frames, np.asarray(rendered.picture), request.limits)
    output = write_video(
        Path(request.staging) / "clip.mp4",
        frames,
        fps=request.spec.fps,
        quality=request.spec.quality,
        encoder=request.spec.encoder,
        metadata=rendered.metadata,
        on_step=progress.step,
    )
    progress.end()
    if found := find_flaw(figures, request.limits):
        raise QualityFailure(found, figures)
    write_poster(Path(request.staging) / "poster.jpg", frames[0])
    return ClipDone(
        job=request.job,
        output=output,
        measurements=figures,
        seconds=progress.seconds,
        peak_memory=rendered.peak_memory,
        unread=rendered.unread,
    )


def check(model: LoadedModel, request: Generate) -> None:
    """Raise SettingsRefused for a size that the model cannot generate."""
    for name, side in (("width", request.width), ("height", request.height)):
        if side < 1 or side % model.multiple:
            raise SettingsRefused(f"{name} {side} is not a multiple of {model.multiple}")
    if request.frames < 2:
        raise SettingsRefused(f"{request.frames} frames are no clip")


def _unread(model: LoadedModel, spec: Spec) -> dict[str, str]:
    # Not by `model.tokenizer`: it cannot serve two threads, and the next clip may be embedded now.
    limit = text_limit_of(model.name)
    return limit.unread_of(spec) if limit else {}


def _conditions(
    model: LoadedModel, request: Generate, picture: Image.Image, progress: ProgressReporter
) -> tuple[Conditions, Conditions | None]:
    placement.place_model(model, request.mode)
    release(model.device)
    return encode_conditions(
        model,
        picture,
        prompts_of(request.spec),
        frames=request.frames,
        fps=request.spec.motion_fps,
        vae_tiling=request.mode.policy.vae_tiling,
        on_step=progress.step,
    )


def _denoise(
    model: LoadedModel,
    request: Generate,
    cond: Conditions,
    uncond: Conditions | None,
    progress: ProgressReporter,
    preview: Preview,
) -> Tensor:
    plan = sampling_plan(request.spec)
    progress.enter("denoise", plan.steps)
    return denoise(
        model,
        request.mode,
        plan,
        cond,
        uncond,
        seed=request.spec.seed,
        guidance=request.spec.guidance,
        rescale=request.spec.guidance_rescale,
        on_step=lambda estimate: progress.step(preview=preview.of(estimate)),
    )


def _decode(
    model: LoadedModel, request: Generate, latents: Tensor, progress: ProgressReporter
) -> Frames:
    release(model.device)
    return decode(model, latents, request.mode.policy, on_step=progress.step)


def metadata(model: LoadedModel, request: Generate) -> dict[str, str]:
    """Return the metadata of the MP4, under keys that the container keeps."""
    facts = {
        "prompt": request.spec.prompt,
        "negative_prompt": request.spec.negative_prompt,
        "seed": request.spec.seed,
        "model": model.name,
        "weights": model.digest,
    }
    return {
        "title": request.spec.prompt,
        "artist": f"i2vd, {model.name}",
        "description": "AI-generated",
        "comment": json.dumps(facts, ensure_ascii=False, sort_keys=True),
    }
