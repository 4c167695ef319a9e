"""A model as wide as the published I2VGen-XL, without its weights: for counts and measurements.

Time and memory do not depend on what the weights are.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, I2VGenXLUNet
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    PreTrainedModel,
)

from pipeline.checkpoint.layout import find
from pipeline.request.presets import MICRO_FOLDER
from pipeline.worker.memory.weights import Weights, assign_tensors, empty_weights
from pipeline.worker.model.embedding_cache import EmbeddingCache
from pipeline.worker.model.loader import LoadedModel
from pipeline.worker.optimizations.attention import qkv_weights

TEXT = CLIPTextConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=23,
    num_attention_heads=16,
    hidden_act="gelu",
)
IMAGE = CLIPVisionConfig(
    hidden_size=1280,
    intermediate_size=5120,
    num_hidden_layers=32,
    num_attention_heads=16,
    patch_size=14,
    projection_dim=1024,
    hidden_act="gelu",
)


def networks() -> dict[str, nn.Module]:
    """The four networks with empty weights, as loading builds them.

    The UNet's shapes are diffusers' defaults.
    """
    with empty_weights():
        made: dict[str, nn.Module] = {
            "unet": I2VGenXLUNet(),
            "vae": AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
            ),
            "text_encoder": CLIPTextModel(TEXT),
            "image_encoder": CLIPVisionModelWithProjection(IMAGE),
        }
    for network in made.values():
        network.requires_grad_(False).eval()
    return made


def noise(name: str, empty: Tensor) -> Tensor:
    """Weights under which values neither die out nor overflow, made where that is quickest."""
    made = torch.empty_like(empty, device="cuda" if torch.cuda.is_available() else "cpu")
    if empty.ndim > 1:
        made.normal_(std=empty[0].numel() ** -0.5)
    else:
        made.fill_(name.endswith("weight"))  # of a normalisation; else a bias
    return made.cpu()


def save(folder: Path) -> None:
    """Leave such a model in a folder, in diffusers layout and half precision."""
    for name, network in networks().items():
        state = {
            key: noise(key, torch.empty(value.shape, dtype=torch.float16))
            for key, value in network.state_dict().items()
        }
        (folder / name).mkdir()
        save_file(state, folder / name / "model.fp16.safetensors")
        if isinstance(network, PreTrainedModel):
            network.config.save_pretrained(folder / name)
        else:
            network.save_config(folder / name)  # type: ignore[operator]
    for rest in ("tokenizer", "scheduler", "feature_extractor"):
        shutil.copytree(MICRO_FOLDER / rest, folder / rest)
    shutil.copy(MICRO_FOLDER / "model_index.json", folder)
    eye = folder / "feature_extractor" / "preprocessor_config.json"
    eye.write_text(json.dumps(json.loads(eye.read_text()) | _EYE))


_EYE = {"crop_size": {"width": 224, "height": 224}}
"""What CLIP sees of a picture, other than in the demonstration model."""


def published(
    device: str,
    dtype: torch.dtype,
    fill: Callable[[str, Tensor], Tensor] = lambda _, empty: empty,
) -> LoadedModel:
    """The model, to work on `device`; `fill` makes the host's tensors from names and empty ones.

    On "meta" the host's copies have no memory either.
    """
    shapes_alone = device == "meta"
    weights = Weights(torch.device(device), copy=shapes_alone)
    made = networks()
    for name, network in made.items():
        state = network.state_dict()
        kind = "meta" if shapes_alone else "cpu"
        host = {
            key: fill(key, torch.empty(value.shape, dtype=dtype, device=kind))
            for key, value in state.items()
        }
        assign_tensors(network, host, name)
        network.to(kind)
        weights.register(network, qkv_weights(network) if name == "unet" else ())
    micro = find("micro", small=True)
    scheduler = {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"}
    return LoadedModel(
        name="random weights",
        digest="",
        dtype=dtype,
        tokenizer=CLIPTokenizer.from_pretrained(MICRO_FOLDER / "tokenizer"),
        scheduler=scheduler | {"rescale_betas_zero_snr": True, "timestep_spacing": "leading"},
        image_processor=dict(micro.configs["feature_extractor"]) | _EYE,
        weights=weights,
        embeddings=EmbeddingCache(),
        **made,
    )
