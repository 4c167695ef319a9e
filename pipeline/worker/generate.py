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

from pipeline.children.protocol import Made, Make
from pipeline.quality import Flaw, flaw
from pipeline.request.sampling_plan import course
from pipeline.worker import placement
from pipeline.worker.diffusion.conditioning import Conditions, conditions, prompts_of, read_picture
from pipeline.worker.diffusion.decode import decode, release
from pipeline.worker.diffusion.denoise import denoise
from pipeline.worker.errors import Refused, Spoilt
from pipeline.worker.memory.budget import Budget
from pipeline.worker.model.loader import Model
from pipeline.worker.output.frames import Frames
from pipeline.worker.output.poster import leave_poster
from pipeline.worker.output.preview import Preview
from pipeline.worker.output.quality import examine
from pipeline.worker.output.video import write
from pipeline.worker.progress import Watch

_ENCODE_STEPS = 3


@dataclass(frozen=True)
class Film:
    """A clip's frames, not yet looked at, and what else is needed to finish it without a model."""

    order: Make
    frames: Frames
    picture: Image.Image
    metadata: dict[str, str]
    peak_memory: int | None


@torch.no_grad()
def film(model: Model, order: Make, watch: Watch, budget: Budget) -> Film:
    """Make the frames that `order` asks for.

    Raises Refused, Spoilt, Cancelled, and what lack of memory raises.
    """
    check(model, order)
    watch.enter("encode", _ENCODE_STEPS)
    picture = read_picture(Path(order.picture), order.width, order.height)
    wanted, unwanted = _conditions(model, order, picture, watch)
    preview = Preview(wanted.latents[0, :, 0], picture)
    made = _denoise(model, order, wanted, unwanted, watch, preview)
    latents = watch.spoiled(made)
    if not torch.isfinite(latents).all():
        raise Spoilt(Flaw("not-finite", "the latents are not numbers"))
    del made, wanted, unwanted, preview
    watch.enter("decode", order.frames)
    frames = watch.spoiled(_decode(model, order, latents, watch))
    return Film(order, frames, picture, metadata(model, order), budget.peak())


def finish(film: Film, watch: Watch) -> Made:
    """Look at the frames and write them.

    Raises Spoilt (the refused clip is in staging), BadFile, Cancelled, OSError.
    """
    order = film.order
    watch.enter("write", order.frames)
    frames, figures = examine(film.frames, np.asarray(film.picture), order.limits)
    output = write(
        Path(order.staging) / "clip.mp4",
        frames,
        fps=order.spec.fps,
        quality=order.spec.quality,
        encoder=order.spec.encoder,
        metadata=film.metadata,
        on_step=watch.step,
    )
    watch.end()
    if found := flaw(figures, order.limits):
        raise Spoilt(found, figures)
    leave_poster(Path(order.staging) / "poster.jpg", frames[0])
    return Made(
        job=order.job,
        output=output,
        figures=figures,
        seconds=watch.seconds,
        peak_memory=film.peak_memory,
    )


def check(model: Model, order: Make) -> None:
    """Raises Refused for a size that the model cannot make."""
    for name, side in (("width", order.width), ("height", order.height)):
        if side < 1 or side % model.multiple:
            raise Refused(f"{name} {side} is not a multiple of {model.multiple}")
    if order.frames < 2:
        raise Refused(f"{order.frames} frames are no clip")


def _conditions(
    model: Model, order: Make, picture: Image.Image, watch: Watch
) -> tuple[Conditions, Conditions | None]:
    placement.prepare(model, order.mode)
    release(model.device)
    return conditions(
        model,
        picture,
        prompts_of(order.spec),
        frames=order.frames,
        fps=order.spec.motion_fps,
        striped=order.mode.thrift.stripes,
        on_step=watch.step,
    )


def _denoise(
    model: Model,
    order: Make,
    wanted: Conditions,
    unwanted: Conditions | None,
    watch: Watch,
    preview: Preview,
) -> Tensor:
    way = course(order.spec)
    watch.enter("denoise", way.steps)
    return denoise(
        model,
        order.mode,
        way,
        wanted,
        unwanted,
        seed=order.spec.seed,
        guidance=order.spec.guidance,
        rescale=order.spec.guidance_rescale,
        on_step=lambda estimate: watch.step(preview=preview.of(estimate)),
    )


def _decode(model: Model, order: Make, latents: Tensor, watch: Watch) -> Frames:
    release(model.device)
    return decode(model, latents, order.mode.thrift, on_step=watch.step)


def metadata(model: Model, order: Make) -> dict[str, str]:
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
