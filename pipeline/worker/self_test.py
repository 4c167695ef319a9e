"""Self-test of a loaded model: use each part once, at the smallest size, before any clip.

A part that is damaged, or that the device cannot run, is thus found while loading: it is no fault
of the pictures that wait.
"""

import sys

import torch
from PIL import Image
from torch import Tensor

from pipeline.checkpoint.layout import ModelUnusable
from pipeline.memory.modes import Mode
from pipeline.worker.diffusion.conditioning import encode_conditions
from pipeline.worker.diffusion.decode import decode
from pipeline.worker.diffusion.sampler import predict_unguided, sample, scheduler_for
from pipeline.worker.errors import first_line, is_device_lost, is_out_of_memory
from pipeline.worker.model.loader import LoadedModel

_FRAMES = 2


@torch.no_grad()
def self_test(model: LoadedModel) -> None:
    """Encode, predict and decode two frames of noise. Raises ModelUnusable.

    Out-of-memory ends the test: the ladder finds a mode for each clip. A UNet that has no room on
    the device is left out.
    """
    part = "encoders"
    try:
        picture = Image.new("RGB", (model.multiple, model.multiple), (96, 128, 160))
        conditions, _ = encode_conditions(
            model, picture, ["a"], frames=_FRAMES, fps=8, on_step=lambda: None
        )
        for tensor in (conditions.text, conditions.image, conditions.latents):
            _require_numbers(tensor)
        part = "scheduler"
        scheduler = scheduler_for(model.scheduler, "ddim", None)
        noise = torch.zeros_like(conditions.latents, dtype=torch.float32)
        _require_numbers(sample(lambda latents, _: latents, noise, scheduler, 1, lambda _: None))
        part = "unet"
        if next(model.unet.parameters()).device == model.device:
            time = torch.tensor(1, device=model.device)
            _require_numbers(predict_unguided(model.unet, conditions)(noise, time))
        part = "vae"
        decode(model, noise, Mode.RESIDENT.policy, on_step=lambda _: None)
    except Exception as error:
        if is_device_lost(error):
            raise
        if not is_out_of_memory(error):
            raise ModelUnusable(
                f"{model.name}: its {part} cannot be used: {first_line(error)}"
            ) from error
        print(f"{model.device} has no room to test the {part} of {model.name}", file=sys.stderr)


def _require_numbers(tensor: Tensor) -> None:
    if not torch.isfinite(tensor).all():
        raise ArithmeticError("it gives no numbers")
