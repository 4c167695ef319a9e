"""Model loader: build the networks, map the weights, assign them, then load to the device.

The three steps are `_build` (parameters on `meta`: shapes without memory), `read_tensors` (files
memory-mapped) and `assign_tensors` (the mapped tensors become the parameters).
"""

import platform
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, I2VGenXLUNet
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from pipeline.checkpoint.layout import NETWORKS, CheckpointFiles, ModelUnusable, find
from pipeline.worker.errors import first_line, is_out_of_memory
from pipeline.worker.memory.weights import Weights, assign_tensors, empty_weights, read_tensors
from pipeline.worker.model.embedding_cache import EmbeddingCache
from pipeline.worker.optimizations.attention import qkv_weights


@dataclass
class LoadedModel:
    """Networks, tokenizer, configurations and weights of one checkpoint."""

    name: str
    digest: str
    dtype: torch.dtype
    unet: Any
    vae: Any
    text_encoder: Any
    image_encoder: Any
    tokenizer: Any
    scheduler: dict[str, Any]
    """The scheduler's configuration."""
    image_processor: dict[str, Any]
    """Configuration of CLIP's image processor: crop_size, image_mean, image_std."""
    weights: Weights
    embeddings: EmbeddingCache

    @property
    def device(self) -> torch.device:
        """Device that computes."""
        return self.weights.device

    @property
    def vae_factor(self) -> int:
        """Pixels per latent pixel along each side: 8 for the full model."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def multiple(self) -> int:
        """Divisor of both sides of a clip, in pixels: 64 for the full model."""
        return int(self.vae_factor * 2 ** (len(self.unet.config.block_out_channels) - 1))

    def load_unet(self) -> None:
        """Load the UNet to the device before the first clip, or leave it on the host if too large.

        Each clip then loads what its memory mode needs.
        """
        try:
            self.weights.load(self.unet)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self.weights.unload(self.unet)
            print(f"{self.device} has no room for the UNet of {self.name}", file=sys.stderr)


def load_model(
    name: str, device: str, dtype: str, *, copy: bool = False, on_step: Callable[[], None]
) -> LoadedModel:
    """Load a model for use on `device`, in the type that `dtype` names.

    The weights are mapped on the host; `load_unet` and each clip load them to the device. `copy` is
    that of `Weights`. `on_step` is called five times. Raises ModelUnusable.
    """
    target = open_device(device)
    torch_dtype = getattr(torch, dtype)
    source = find(name, small=torch_dtype != torch.float32)
    on_step()
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(source.digest)
        weights = Weights(target, copy=copy)
        networks: dict[str, Any] = {}
        for part in NETWORKS:
            networks[part] = _load_network(part, source, torch_dtype)
            adjacent = qkv_weights(networks[part]) if part == "unet" else ()
            weights.register(networks[part], adjacent)
            on_step()
        return LoadedModel(
            name=name,
            digest=digest.result(),
            dtype=torch_dtype,
            tokenizer=_load_tokenizer(source),
            scheduler=dict(source.configs["scheduler"]),
            image_processor=dict(source.configs["feature_extractor"]),
            weights=weights,
            embeddings=EmbeddingCache(),
            **networks,
        )


def open_device(name: str) -> torch.device:
    """Return the device if this machine has it. Raises ModelUnusable; out-of-memory propagates."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        if is_out_of_memory(error):
            raise
        first = str(error).splitlines()[0]
        raise ModelUnusable(f"the device {name!r} cannot be used: {first}") from None
    return device


def device_facts(device: torch.device) -> tuple[str, int | None]:
    """Return the name of a device and its memory in bytes (None on a CPU)."""
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        return facts.name, facts.total_memory
    return _cpu_name(), None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _load_network(part: str, source: CheckpointFiles, dtype: torch.dtype) -> nn.Module:
    network = _build(part, source)
    network.requires_grad_(False).eval()
    assign_tensors(network, read_tensors(source.weights[part], dtype), part)
    return network


def _load_tokenizer(source: CheckpointFiles) -> Any:
    """Load the tokenizer, and check that the text encoder knows its tokens and lengths."""
    folder, config = source.folder / "tokenizer", source.configs["text_encoder"]
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder)
    except Exception as error:  # the libraries raise any type for a damaged file
        raise ModelUnusable(f"{folder} cannot be loaded: {first_line(error)}") from error
    for what, has, knows in (
        ("tokens", max(tokenizer.get_vocab().values(), default=-1) + 1, config.get("vocab_size")),
        ("tokens a prompt", tokenizer.model_max_length, config.get("max_position_embeddings", 77)),
    ):
        if has != knows:
            raise ModelUnusable(
                f"{folder} has {has} {what}, the text encoder {knows}: they do not belong together"
            )
    return tokenizer


def _build(part: str, source: CheckpointFiles) -> nn.Module:
    config = source.configs[part]
    try:
        with empty_weights():
            network: nn.Module
            if part == "unet":
                network = I2VGenXLUNet.from_config(config)
            elif part == "vae":
                network = AutoencoderKL.from_config(config)
            elif part == "text_encoder":
                network = CLIPTextModel(CLIPTextConfig.from_dict(dict(config)))
            else:
                network = CLIPVisionModelWithProjection(CLIPVisionConfig.from_dict(dict(config)))
    except (TypeError, ValueError) as error:
        raise ModelUnusable(f"{source.folder / part}: {error}") from error
    return network
