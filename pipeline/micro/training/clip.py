"""Generation of one clip as in a job: the worker's loading, conditioning, sampling, decoding.

Only the MP4 is left out: the frames are returned as they would go to the encoder.
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
    """Resolved settings of a clip, as far as a rule may set them."""

    width: int = 64
    height: int = 64
    frames: int = 8
    steps: int = 12
    guidance: float = 1.0
    rescale: float = 1.0
    sampler: Sampler = "ddim"
    mode: Mode = Mode.RESIDENT
    negative_prompt: str = "blurry, static"
    savings: tuple[Saving, ...] = ()

    @property
    def guided(self) -> bool:
        """True with classifier-free guidance, as `Spec.guided`."""
        return self.guidance > 1

    @property
    def plan(self) -> SamplingPlan:
        """Sampling plan of the clip."""
        return sampling_plan_with(
            self.savings, steps=self.steps, guided=self.guided, sampler=self.sampler
        )


def load_on_cpu(name: str = MICRO, dtype: str = "float32") -> LoadedModel:
    """Load the embedded checkpoint, or another in the same layout, on the CPU."""
    return load_model(name, "cpu", dtype, on_step=lambda: None)


@torch.no_grad()
def generate_clip(
    model: LoadedModel, picture: Image.Image, prompt: str, setting: Setting, seed: int = 0
) -> Tensor:
    """Generate (frames, 3, height, width) in -1..1 from a picture that has the clip's size."""
    policy = setting.mode.policy
    placement.place_model(model, setting.mode)
    cond, uncond = encode_conditions(
        model,
        picture,
        [prompt, setting.negative_prompt] if setting.guided else [prompt],
        frames=setting.frames,
        fps=MICRO_FAMILY.motion_fps,
        vae_tiling=policy.vae_tiling,
        on_step=lambda: None,
    )
    latents = denoise(
        model,
        setting.mode,
        setting.plan,
        cond,
        uncond,
        seed=seed,
        guidance=setting.guidance,
        rescale=setting.rescale,
        on_step=lambda _: None,
    )
    frames = decode(model, latents, policy, on_step=lambda _: None)
    return torch.from_numpy(frames).permute(0, 3, 1, 2) / 127.5 - 1
