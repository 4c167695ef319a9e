"""Denoising a clip: the model, the mode, the course and the conditions put together."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from pipeline.memory.modes import Mode
from pipeline.request.sampling_plan import Course
from pipeline.worker import placement
from pipeline.worker.diffusion.conditioning import Conditions
from pipeline.worker.diffusion.sampler import noise_for, predicting, sample, scheduler_for
from pipeline.worker.model.loader import Model
from pipeline.worker.optimizations.cuda_graph import recorded
from pipeline.worker.optimizations.registry import graphs


def denoise(
    model: Model,
    mode: Mode,
    course: Course,
    wanted: Conditions,
    unwanted: Conditions | None,
    *,
    seed: int,
    guidance: float,
    rescale: float,
    on_step: Callable[[Tensor], None],
) -> Tensor:
    """The clip's latents, in the shape of the picture's: (1, 4, frames, height, width).

    `on_step` is called as `sample` does. Raises what lack of memory raises.
    """
    replays = graphs(model.device, mode.thrift, course)
    with placement.unet(model, mode) as unet:
        return sample(
            predicting(
                unet,
                wanted,
                unwanted,
                guidance,
                course.turns,
                rescale=rescale,
                halves=mode.thrift.halves,
                through=partial(recorded, device=model.device) if replays else None,
            ),
            noise_for(seed, tuple(wanted.latents.shape)).to(model.device),
            scheduler_for(model.scheduler, course.sampler, course.spacing),
            course.steps,
            on_step,
        )
