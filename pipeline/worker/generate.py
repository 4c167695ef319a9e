"""One clip, from the clean PNG to the checked MP4: the stages in their order.

`film` is what needs the device, `finish` what does not, so that another clip can be filmed
meanwhile.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.children.protocol import ClipDone, Generate
from pipeline.quality import Flaw, find_flaw
from pipeline.request.sampling_plan import sampling_plan
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
    """A clip's frames, not yet looked at, and what else is needed to finish it without a model."""

    order: Generate
    frames: Frames
    picture: Image.Image
    metadata: dict[str, str]
    peak_memory: int | None


@torch.no_grad()
def generate_frames(
    model: LoadedModel, order: Generate, progress: ProgressReporter, budget: Budget
) -> RenderedFrames:
    """Make the frames that `order` asks for.

    Raises Refused, Spoilt, Cancelled, and what lack of memory raises.
    """
    check(model, order)
    progress.enter("encode", _ENCODE_STEPS)
    picture = read_picture(Path(order.picture), order.width, order.height)
    wanted, unwanted = _conditions(model, order, picture, progress)
    preview = Preview(wanted.latents[0, :, 0], picture)
    made = _denoise(model, order, wanted, unwanted, progress, preview)
    latents = progress.inject_fault(made)
    if not torch.isfinite(latents).all():
        raise QualityFailure(Flaw("not_finite", "the latents are not numbers"))
    del made, wanted, unwanted, preview
    progress.enter("decode", order.frames)
    frames = progress.inject_fault(_decode(model, order, latents, progress))
    return RenderedFrames(order, frames, picture, metadata(model, order), budget.peak())


def write_clip(rendered: RenderedFrames, progress: ProgressReporter) -> ClipDone:
    """Look at the frames and write them.

    Raises Spoilt (the refused clip is in staging), BadFile, Cancelled, OSError.
    """
    order = rendered.order
    progress.enter("write", order.frames)
    frames, figures = examine(rendered.frames, np.asarray(rendered.picture), order.limits)
    output = write_video(
        Path(order.staging) / "clip.mp4",
        frames,
        fps=order.spec.fps,
        quality=order.spec.quality,
        encoder=order.spec.encoder,
        metadata=rendered.metadata,
        on_step=progress.step,
    )
    progress.end()
    if found := find_flaw(figures, order.limits):
        raise QualityFailure(found, figures)
    write_poster(Path(order.staging) / "poster.jpg", frames[0])
    return ClipDone(
        job=order.job,
        output=output,
        measurements=figures,
        seconds=progress.seconds,
        peak_memory=rendered.peak_memory,
    )


def check(model: LoadedModel, order: Generate) -> None:
    """Raises Refused for a size that the model cannot make."""
    for name, side in (("width", order.width), ("height", order.height)):
        if side < 1 or side % model.multiple:
            raise SettingsRefused(f"{name} {side} is not a multiple of {model.multiple}")
    if order.frames < 2:
        raise SettingsRefused(f"{order.frames} frames are no clip")


def _conditions(
    model: LoadedModel, order: Generate, picture: Image.Image, progress: ProgressReporter
) -> tuple[Conditions, Conditions | None]:
    placement.place_model(model, order.mode)
    release(model.device)
    return encode_conditions(
        model,
        picture,
        prompts_of(order.spec),
        frames=order.frames,
        fps=order.spec.motion_fps,
        vae_tiling=order.mode.policy.vae_tiling,
        on_step=progress.step,
    )


def _denoise(
    model: LoadedModel,
    order: Generate,
    cond: Conditions,
    uncond: Conditions | None,
    progress: ProgressReporter,
    preview: Preview,
) -> Tensor:
    way = sampling_plan(order.spec)
    progress.enter("denoise", way.steps)
    return denoise(
        model,
        order.mode,
        way,
        cond,
        uncond,
        seed=order.spec.seed,
        guidance=order.spec.guidance,
        rescale=order.spec.guidance_rescale,
        on_step=lambda estimate: progress.step(preview=preview.of(estimate)),
    )


def _decode(
    model: LoadedModel, order: Generate, latents: Tensor, progress: ProgressReporter
) -> Frames:
    release(model.device)
    return decode(model, latents, order.mode.policy, on_step=progress.step)


def metadata(model: LoadedModel, order: Generate) -> dict[str, str]:
    """What the file says of itself, under keys that MP4 keeps."""
    facts = {
        "prompt": order.spec.prompt,
        "negative_prompt": order.spec.negative_prompt,
        "seed": order.spec.seed,
        "model": model.name,
        "weights": model.digest,
    }
    return {
        "title": order.spec.prompt,
        "artist": f"i2vd, {model.name}",
        "description": "AI-generated",
        "comment": json.dumps(facts, ensure_ascii=False, sort_keys=True),
    }
