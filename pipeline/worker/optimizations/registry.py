"""Which transforms are on: the one list, and what of it a mode takes."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from pipeline.memory.modes import MemoryPolicy
from pipeline.request.sampling_plan import SamplingPlan
from pipeline.worker.optimizations import fused_ops
from pipeline.worker.optimizations.attention import fused_qkv, geglu, spatial_attention
from pipeline.worker.optimizations.convolution import (
    channels_last,
    fused_group_norms,
    fused_resnets,
    subpixel_upsample,
    temporal_conv_as_matmul,
)
from pipeline.worker.optimizations.step_invariants import compute_invariants, shared_cfg
from pipeline.worker.patch import Patches, patched

OPTIMIZATIONS: dict[str, tuple[Callable[[Any], Patches], ...]] = {
    "step_invariants": (compute_invariants, spatial_attention),
    "shared_cfg": (shared_cfg, spatial_attention),
    "spatial_attention": (spatial_attention,),
    "fused_qkv": (fused_qkv,),
    "geglu": (geglu,),
    "temporal_conv_as_matmul": (temporal_conv_as_matmul,),
    "fused_resnets": (fused_resnets,),
    "subpixel_upsample": (subpixel_upsample,),
    "channels_last": (channels_last,),
}
"""By name, each with what it builds upon. What stands further down wins."""

_SLICED = ("step_invariants", "spatial_attention", "geglu", "fused_resnets")
"""Those that hold no more than the slices of a thrifty mode, or are sliced themselves."""


def select(thrift: MemoryPolicy, device: torch.device) -> list[str]:
    """The names of those that a mode takes on a device.

    On CUDA channels last, and what gains by them, pay only with our own kernel for group
    normalisation.
    """
    if thrift.chunk is not None:
        return list(_SLICED)
    pay = fused_ops.enabled() or device.type != "cuda"
    return [
        name
        for name in OPTIMIZATIONS
        if pay or name not in ("channels_last", "temporal_conv_as_matmul")
    ]


def uses_cuda_graph(device: torch.device, thrift: MemoryPolicy, course: SamplingPlan) -> bool:
    """Whether a clip's steps are recorded as CUDA graphs.

    Not where weights come and go, and not where one step takes what another has left.
    """
    return device.type == "cuda" and thrift.chunk is None and not course.reuses_features


def decoding(vae: Any) -> Patches:
    """What stands in where the VAE takes frames whole."""
    if not fused_ops.enabled():
        return subpixel_upsample(vae)
    every = (subpixel_upsample, fused_resnets, fused_group_norms, channels_last)
    return {m: forward for make in every for m, forward in make(vae).items()}


@contextmanager
def apply(unet: Any, names: Iterable[str]) -> Iterator[None]:
    """Within, the UNet computes with these transforms."""
    with ExitStack() as stack:
        for transform in dict.fromkeys(each for name in names for each in OPTIMIZATIONS[name]):
            stack.enter_context(patched(transform(unet)))
        yield
