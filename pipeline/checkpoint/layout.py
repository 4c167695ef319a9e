"""Checkpoint layout: find a model's folder and check its configurations and weight files.

A model is a folder in diffusers layout. Only safetensors are read, because a pickle can run code.
Errors name the part that is wrong. Loading is the worker's; this module does not import torch.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from pipeline.request.presets import MICRO, MICRO_FOLDER

NETWORKS = {
    "unet": "I2VGenXLUNet",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "image_encoder": "CLIPVisionModelWithProjection",
}
"""Class of each network, by folder."""

REVISIONS = {"ali-vilab/i2vgen-xl": "39e1979ea27be737b0278c06755e321f2b4360d5"}
"""Commit of a hub id that is pulled and loaded if none is named: "main" may change."""

_CONFIGS = {
    "unet": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "image_encoder": "config.json",
    "feature_extractor": "preprocessor_config.json",
    "scheduler": "scheduler_config.json",
    "tokenizer": "tokenizer_config.json",
}
_TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
"""Alternative sets of files that hold a tokenizer's vocabulary."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


class ModelUnusable(Exception):
    """A model that cannot be loaded; the message gives the remedy."""


class ModelMissing(ModelUnusable):
    """A model that is not there yet: it may still be downloaded, or its disk mounted."""


@dataclass(frozen=True)
class CheckpointFiles:
    """Checked model folder: configurations by part, weight files by network, tokenizer files."""

    folder: Path
    configs: Mapping[str, Mapping[str, Any]]
    weights: Mapping[str, tuple[Path, ...]]
    tokenizer: tuple[Path, ...]

    def files(self) -> list[Path]:
        """Return every file that decides over a clip, by path: also what is not a weight."""
        configs = [self.folder / part / name for part, name in _CONFIGS.items()]
        return sorted([*configs, *self.tokenizer, *chain.from_iterable(self.weights.values())])

    def digest(self) -> str:
        """Return the SHA-256 of the lines "sha256  path" of all files.

        Reads every byte, which takes some seconds for the full model, parallel to loading.
        """
        files = self.files()
        with ThreadPoolExecutor() as pool:
            lines = [
                f"{sha256}  {file.relative_to(self.folder)}\n"
                for file, sha256 in zip(files, pool.map(_sha256, files), strict=True)
            ]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def find(model: str, *, small: bool) -> CheckpointFiles:
    """Return the files of "micro", of a folder, or of a downloaded hub id (or id@revision).

    If a folder has both variants, `small` selects the fp16 files. Raises ModelUnusable.
    """
    folder = _folder(model)
    _check_index(folder)
    configs = {part: _config(folder, part) for part in _CONFIGS}
    for part, expected in NETWORKS.items():
        _check_class(folder, part, configs[part], expected)
    _check_normalisation(folder / "feature_extractor", configs["feature_extractor"])
    weights = {part: _files(folder / part, small) for part in NETWORKS}
    return CheckpointFiles(folder, configs, weights, _tokenizer_files(folder / "tokenizer"))


def _folder(model: str) -> Path:
    if model == MICRO:
        return MICRO_FOLDER
    if Path(model).is_dir():
        return Path(model)
    if Path(model).is_absolute():
        raise ModelMissing(f"{model}: there is no such folder; is its disk mounted?")
    if not _HUB_ID.fullmatch(model):
        raise ModelUnusable(f"{model}: there is no such folder")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        IncompleteSnapshotError,
        LocalEntryNotFoundError,
    )

    repo, _, revision = model.partition("@")
    try:
        chosen = revision or REVISIONS.get(repo)
        return Path(snapshot_download(repo, revision=chosen, local_files_only=True))
    # downloads are always partial; `find` checks the parts
    except IncompleteSnapshotError as error:
        return Path(error.snapshot_path)
    except LocalEntryNotFoundError:
        raise ModelMissing(
            f"{model} is neither a folder nor in the local cache; fetch it: i2vd model pull {repo}"
        ) from None
    except (HFValidationError, ValueError):
        raise ModelUnusable(f"{model}: there is no such folder, and it is no hub id") from None


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelUnusable(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ModelUnusable(f"{file} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ModelUnusable(f"{file} holds no JSON object")
    return found


def _check_index(folder: Path) -> None:
    if not (index := folder / "model_index.json").is_file():
        raise ModelUnusable(f"{folder} has no model_index.json: it is not in diffusers layout")
    if (name := _read(index).get("_class_name")) != "I2VGenXLPipeline":
        raise ModelUnusable(f"{folder} is a {name}, not an I2VGenXLPipeline")


def _config(folder: Path, part: str) -> Mapping[str, Any]:
    file = folder / part / _CONFIGS[part]
    if not file.is_file():
        raise ModelUnusable(f"{folder} lacks {part}/{_CONFIGS[part]}")
    return _read(file)


def _check_class(folder: Path, part: str, config: Mapping[str, Any], expected: str) -> None:
    named = config.get("_class_name", config.get("architectures"))
    names = named if isinstance(named, list) else [named]
    if named and expected not in names:
        kinds = ", ".join(map(str, names))
        raise ModelUnusable(f"{folder / part} is a {kinds}, not a {expected}")


def _check_normalisation(folder: Path, config: Mapping[str, Any]) -> None:
    """Check what turns a picture into the image encoder's input: size, mean, deviation."""
    file = folder / _CONFIGS["feature_extractor"]
    size = config.get("crop_size")
    if not isinstance(size, dict) or not all(
        isinstance(size.get(side), int) and size[side] > 0 for side in ("width", "height")
    ):
        raise ModelUnusable(f"{file} lacks a crop_size with width and height")
    for key in ("image_mean", "image_std"):
        values = config.get(key)
        if not isinstance(values, list) or [type(each) for each in values] != [float] * 3:
            raise ModelUnusable(f"{file} lacks {key}, three numbers")
    if 0.0 in config["image_std"]:
        raise ModelUnusable(f"{file}: image_std has a zero")


def _tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """Return the files that the tokenizer is loaded from.

    Without its vocabulary transformers makes a tokenizer that takes every prompt for other words.
    """
    for names in _TOKENIZER_FILES:
        files = [folder / name for name in names]
        if all(file.is_file() for file in files):
            return (*files, *(f for f in [folder / "special_tokens_map.json"] if f.is_file()))
    wanted = " or ".join(" and ".join(names) for names in _TOKENIZER_FILES)
    raise ModelUnusable(f"{folder} has no vocabulary: {wanted} is missing")


def _files(folder: Path, small: bool) -> tuple[Path, ...]:
    """Return one variant: `x.safetensors` or `x.fp16.safetensors`, each full or in shards."""
    found = sorted(folder.glob("*.safetensors"))
    fp16 = tuple(file for file in found if ".fp16" in file.name)
    full = tuple(file for file in found if ".fp16" not in file.name)
    if chosen := (fp16 or full) if small else (full or fp16):
        return chosen
    if any(folder.glob("*.bin")):
        raise ModelUnusable(f"{folder} has only .bin files, which can run code; want .safetensors")
    raise ModelUnusable(f"{folder} has no .safetensors file")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
