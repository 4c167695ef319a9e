"""Registry of the optimizations, and the selection of those that suit a memory mode and device.

Each optimization gives the result of the unmodified diffusers modules, up to rounding.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from pipeline.memory.modes import MemoryPolicy
from pipeline.request.sampling_plan import SamplingPlan
from pipeline.worker.monkey_patch import Patches, patched
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
"""The patches of each optimization, with those it builds upon. A later entry takes precedence."""

_CHUNKABLE = ("step_invariants", "spatial_attention", "geglu", "fused_resnets")
"""Optimizations that need no more memory than one chunk, or are chunked themselves."""

_NEED_TRITON = ("channels_last", "temporal_conv_as_matmul")
"""Optimizations that are slower on CUDA without the Triton kernel for group normalisation."""


def select(policy: MemoryPolicy, device: torch.device) -> list[str]:
    """Return the names of the optimizations to apply for a memory policy on a device."""
    if policy.chunk is not None:
        return list(_CHUNKABLE)
    if fused_ops.enabled() or device.type != "cuda":
        return list(OPTIMIZATIONS)
    return [name for name in OPTIMIZATIONS if name not in _NEED_TRITON]


def uses_cuda_graph(device: torch.device, policy: MemoryPolicy, plan: SamplingPlan) -> bool:
    """Return True if the denoising steps of a clip are captured as CUDA graphs.

    Capture is impossible if weights are moved between forwards, or if the feature cache carries
    tensors from one step to the next.
    """
    return device.type == "cuda" and policy.chunk is None and not plan.reuses_features


def vae_patches(vae: Any) -> Patches:
    """Return the patches of a VAE that processes whole frames, without tiling."""
    if not fused_ops.enabled():
        return subpixel_upsample(vae)
    every = (subpixel_upsample, fused_resnets, fused_group_norms, channels_last)
    return {m: forward for make in every for m, forward in make(vae).items()}


@contextmanager
def apply(unet: Any, names: Iterable[str]) -> Iterator[None]:
    """Patch the UNet with the named optimizations within the context."""
    with ExitStack() as stack:
        for transform in dict.fromkeys(each for name in names for each in OPTIMIZATIONS[name]):
            stack.enter_context(patched(transform(unet)))
        yield
