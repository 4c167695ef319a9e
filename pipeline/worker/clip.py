"""One clip, from the clean PNG to the checked MP4: the stages in their order."""

import json
from pathlib import Path

import torch
from torch import Tensor

from pipeline.protocol import Made, Make
from pipeline.worker import hold
from pipeline.worker.budget import Budget
from pipeline.worker.conditions import Conditions, conditions, read_picture
from pipeline.worker.decode import Frames, decode, release
from pipeline.worker.encode import Clip, write
from pipeline.worker.errors import Refused
from pipeline.worker.gate import findings
from pipeline.worker.model import Model
from pipeline.worker.sampler import Predict, guided, noise_for, plain, sample, scheduler_for
from pipeline.worker.watch import Watch

_ENCODE_STEPS = 3


@torch.no_grad()
def make(model: Model, order: Make, watch: Watch, budget: Budget) -> Made:
    """Make the clip that `order` asks for.

    Raises Refused, Spoilt, Cancelled, OSError, and what lack of memory raises.
    """
    check(model, order)
    watch.enter("encode", _ENCODE_STEPS)
    wanted, unwanted = _conditions(model, order, watch)
    watch.enter("denoise", order.spec.steps)
    latents = _denoise(model, order, wanted, unwanted, watch)
    del wanted, unwanted
    watch.enter("decode", order.frames)
    frames = _decode(model, order, latents, watch)
    watch.enter("write", order.frames)
    clip = _write(model, order, frames, watch)
    watch.end()
    return Made(
        sha256=clip.sha256,
        size=clip.size,
        codec=clip.codec,
        width=clip.width,
        height=clip.height,
        frames=clip.frames,
        fps=clip.fps,
        duration=clip.duration,
        seconds=watch.seconds,
        peak_memory=budget.peak(),
    )


def check(model: Model, order: Make) -> None:
    """Raises Refused for a size that the model cannot make."""
    for name, side in (("width", order.width), ("height", order.height)):
        if side < 1 or side % model.multiple:
            raise Refused(f"{name} {side} is not a multiple of {model.multiple}")
    if order.frames < 2:
        raise Refused(f"{order.frames} frames are no clip")


def _conditions(model: Model, order: Make, watch: Watch) -> tuple[Conditions, Conditions | None]:
    spec = order.spec
    hold.prepare(model, order.mode)
    release(model.device)
    return conditions(
        model,
        read_picture(Path(order.picture), order.width, order.height),
        spec.prompt,
        spec.negative_prompt if spec.guidance > 1.0 else None,
        frames=order.frames,
        fps=spec.motion_fps,
        striped=order.mode.thrift.stripes,
        on_step=watch.step,
    )


def _denoise(
    model: Model, order: Make, wanted: Conditions, unwanted: Conditions | None, watch: Watch
) -> Tensor:
    spec = order.spec
    cells = (order.height // model.vae_factor, order.width // model.vae_factor)
    shape = (1, model.unet.config.in_channels, order.frames, *cells)
    with hold.unet(model, order.mode) as unet:
        predict: Predict
        if unwanted is None:
            predict = plain(unet, wanted)
        else:
            predict = guided(
                unet,
                wanted,
                unwanted,
                spec.guidance,
                rescale=spec.guidance_rescale,
                halves=order.mode.thrift.halves,
            )
        return sample(
            predict,
            noise_for(spec.seed, shape).to(model.device),
            scheduler_for(model.scheduler, spec.sampler, spec.spacing),
            spec.steps,
            watch.step,
        )


def _decode(model: Model, order: Make, latents: Tensor, watch: Watch) -> Frames:
    release(model.device)
    frames = decode(model, latents, order.mode.thrift, on_step=watch.step)
    for finding in findings(frames):
        watch.note(finding)
    return frames


def _write(model: Model, order: Make, frames: Frames, watch: Watch) -> Clip:
    spec = order.spec
    return write(
        Path(order.staging) / "clip.mp4",
        frames,
        fps=spec.fps,
        quality=spec.quality,
        encoder=spec.encoder,
        metadata=metadata(model, order),
        on_step=watch.step,
    )


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
