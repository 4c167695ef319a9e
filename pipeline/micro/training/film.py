"""One clip, made as a job makes it: the worker's own loading, conditioning, sampling, decoding.

Only the file is left out: the frames come back as they would be handed to the encoder.
"""

from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from pipeline.memory.modes import Mode
from pipeline.request.presets import MICRO, MICRO_FAMILY
from pipeline.request.sampling_plan import SamplingPlan, Saving, sampling_plan_with
from pipeline.request.spec import Sampler
from pipeline.worker import placement
from pipeline.worker.diffusion.conditioning import encode_conditions
from pipeline.worker.diffusion.decode import decode
from pipeline.worker.diffusion.denoise import denoise
from pipeline.worker.model.loader import LoadedModel, load_model


class Setting(NamedTuple):
    """How a clip is made: what a rule may ask, resolved."""

    width: int = 64
    height: int = 64
    frames: int = 8
    steps: int = 12
    guidance: float = 1.0
    rescale: float = 1.0
    sampler: Sampler = "ddim"
    mode: Mode = Mode.FAST
    negative_prompt: str = "blurry, static"
    savings: tuple[Saving, ...] = ()

    @property
    def guided(self) -> bool:
        """As of a Spec."""
        return self.guidance > 1

    @property
    def course(self) -> SamplingPlan:
        """How it is sampled."""
        return sampling_plan_with(
            self.savings, steps=self.steps, guided=self.guided, sampler=self.sampler
        )


def load_on_cpu(name: str = MICRO, dtype: str = "float32") -> LoadedModel:
    """The embedded checkpoint, or any other of its kind, on the CPU."""
    return load_model(name, "cpu", dtype, on_step=lambda: None)


@torch.no_grad()
def film(
    model: LoadedModel, picture: Image.Image, prompt: str, setting: Setting, seed: int = 0
) -> Tensor:
    """(frames, 3, height, width) in -1..1: the clip of a picture that already has its size."""
    thrift = setting.mode.policy
    placement.place_model(model, setting.mode)
    wanted, unwanted = encode_conditions(
        model,
        picture,
        [prompt, setting.negative_prompt] if setting.guided else [prompt],
        frames=setting.frames,
        fps=MICRO_FAMILY.motion_fps,
        vae_tiling=thrift.vae_tiling,
        on_step=lambda: None,
    )
    latents = denoise(
        model,
        setting.mode,
        setting.course,
        wanted,
        unwanted,
        seed=seed,
        guidance=setting.guidance,
        rescale=setting.rescale,
        on_step=lambda _: None,
    )
    frames = decode(model, latents, thrift, on_step=lambda _: None)
    return torch.from_numpy(frames).permute(0, 3, 1, 2) / 127.5 - 1
