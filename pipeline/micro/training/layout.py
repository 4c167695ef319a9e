"""Checkpoint folder: builds the parts that are not trained, and writes all parts.

The layout is that of diffusers for I2VGen-XL: one folder a part, `model_index.json`, weights as
fp16 safetensors. The worker's loader reads it.
"""

import json
from pathlib import Path
from typing import NamedTuple

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, I2VGenXLUNet
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from pipeline.micro.training.unet import CONTEXT

IMAGE_SIDE = 32


class Model(NamedTuple):
    """Parts of an I2VGen-XL, in the order of use."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    feature_extractor: CLIPImageProcessorPil
    image_encoder: CLIPVisionModelWithProjection
    vae: AutoencoderKL
    scheduler: DDIMScheduler
    unet: I2VGenXLUNet


def build_scheduler() -> DDIMScheduler:
    """Build a DDIM scheduler with zero terminal SNR (Lin et al. 2023) and sample prediction."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=0,
    )


def build_feature_extractor() -> CLIPImageProcessorPil:
    """Build a CLIP image processor for the size of the image encoder."""
    return CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIDE}, crop_size={"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    )


def build_image_encoder() -> CLIPVisionModelWithProjection:
    """Build an untrained image encoder of one layer."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=IMAGE_SIDE,
            patch_size=8,
            projection_dim=CONTEXT,
        )
    ).eval()


def save(model: Model, folder: Path) -> None:
    """Write all parts; converts the networks to half precision in place."""
    index: dict[str, object] = {
        "_class_name": "I2VGenXLPipeline",
        "_diffusers_version": diffusers.__version__,
    }
    for name, part in zip(model._fields, model, strict=True):
        library = type(part).__module__.split(".")[0]
        index[name] = [library, type(part).__name__]
        if isinstance(part, torch.nn.Module):
            part.half()
            for parameter in part.parameters():  # required by safetensors
                parameter.data = parameter.data.contiguous()
        part.save_pretrained(folder / name)
    text = json.dumps(dict(sorted(index.items())), indent=2)
    (folder / "model_index.json").write_text(text + "\n")
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
