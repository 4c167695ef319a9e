"""Which transforms are on: the one list, and what of it a mode takes."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from pipeline.memory.modes import Thrift
from pipeline.request.sampling_plan import Course
from pipeline.worker.optimizations import fused_ops
from pipeline.worker.optimizations.attention import gates, joined, spatial
from pipeline.worker.optimizations.convolution import channels_last, norms, phases, resnets, shifted
from pipeline.worker.optimizations.step_invariants import constants, shared
from pipeline.worker.patch import Patches, patched

EXACT: dict[str, tuple[Callable[[Any], Patches], ...]] = {
    "constants": (constants, spatial),
    "shared": (shared, spatial),
    "spatial": (spatial,),
    "joined": (joined,),
    "gates": (gates,),
    "shifted": (shifted,),
    "resnets": (resnets,),
    "phases": (phases,),
    "channels_last": (channels_last,),
}
"""By name, each with what it builds upon. What stands further down wins."""

_SLICED = ("constants", "spatial", "gates", "resnets")
"""Those that hold no more than the slices of a thrifty mode, or are sliced themselves."""


def chosen(thrift: Thrift, device: torch.device) -> list[str]:
    """The names of those that a mode takes on a device.

    On CUDA channels last, and what gains by them, pay only with our own kernel for group
    normalisation.
    """
    if thrift.cells is not None:
        return list(_SLICED)
    pay = fused_ops.at_work() or device.type != "cuda"
    return [name for name in EXACT if pay or name not in ("channels_last", "shifted")]


def graphs(device: torch.device, thrift: Thrift, course: Course) -> bool:
    """Whether a clip's steps are recorded as CUDA graphs.

    Not where weights come and go, and not where one step takes what another has left.
    """
    return device.type == "cuda" and thrift.cells is None and not course.reuses


def decoding(vae: Any) -> Patches:
    """What stands in where the VAE takes frames whole."""
    if not fused_ops.at_work():
        return phases(vae)
    every = (phases, resnets, norms, channels_last)
    return {m: forward for make in every for m, forward in make(vae).items()}


@contextmanager
def applied(unet: Any, names: Iterable[str]) -> Iterator[None]:
    """Within, the UNet computes with these transforms."""
    with ExitStack() as stack:
        for transform in dict.fromkeys(each for name in names for each in EXACT[name]):
            stack.enter_context(patched(transform(unet)))
        yield
