"""Where a model comes from: its folder, the files of its parts, and whether they are what we need.

A model is a folder in diffusers layout. Only safetensors are read, for a pickle can run code. What
is wrong with a folder is said in words that name the part; nothing here needs torch.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.request.presets import MICRO, MICRO_FOLDER

NETWORKS = {
    "unet": "I2VGenXLUNet",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "image_encoder": "CLIPVisionModelWithProjection",
}
"""Folder of each network, and its class."""

_CONFIGS = {
    "unet": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "image_encoder": "config.json",
    "feature_extractor": "preprocessor_config.json",
    "scheduler": "scheduler_config.json",
    "tokenizer": "tokenizer_config.json",
}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


class ModelUnusable(Exception):
    """The model cannot be loaded; the message says what to do about it."""


@dataclass(frozen=True)
class CheckpointFiles:
    """A checked folder: configurations by part, and weight files by network."""

    folder: Path
    configs: Mapping[str, Mapping[str, Any]]
    weights: Mapping[str, tuple[Path, ...]]

    def digest(self) -> str:
        """Sha256 over the lines "sha256  part" of all weight files, in order of part and name.

        It reads every byte: some seconds for the full model, next to the loading.
        """
        with ThreadPoolExecutor() as pool:
            lines = [
                (part, pool.submit(_sha256, file))
                for part, files in sorted(self.weights.items())
                for file in files
            ]
            text = "".join(f"{future.result()}  {part}\n" for part, future in lines)
        return hashlib.sha256(text.encode()).hexdigest()


def find(model: str, *, small: bool) -> CheckpointFiles:
    """The files of "micro", of a folder, or of a hub id (or id@revision) that was pulled before.

    `small` prefers the fp16 files where a folder has both. Raises ModelUnusable.
    """
    folder = _folder(model)
    _check_index(folder)
    configs = {part: _config(folder, part) for part in _CONFIGS}
    for part, wanted in NETWORKS.items():
        _check_class(folder, part, configs[part], wanted)
    return CheckpointFiles(
        folder, configs, {part: _files(folder / part, small) for part in NETWORKS}
    )


def _folder(model: str) -> Path:
    if model == MICRO:
        return MICRO_FOLDER
    if Path(model).is_dir():
        return Path(model)
    if not _HUB_ID.fullmatch(model):
        raise ModelUnusable(f"{model}: there is no such folder")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

    repo, _, revision = model.partition("@")
    try:
        return Path(snapshot_download(repo, revision=revision or None, local_files_only=True))
    except IncompleteSnapshotError as error:  # we never pull all; what we need is checked later
        return Path(error.snapshot_path)
    except LocalEntryNotFoundError:
        raise ModelUnusable(
            f"{model} is neither a folder nor in the local cache; fetch it: i2vd model pull {repo}"
        ) from None


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
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


def _check_class(folder: Path, part: str, config: Mapping[str, Any], wanted: str) -> None:
    names = [config["_class_name"]] if "_class_name" in config else config.get("architectures")
    if names and wanted not in names:
        raise ModelUnusable(f"{folder / part} is a {', '.join(names)}, not a {wanted}")


def _files(folder: Path, small: bool) -> tuple[Path, ...]:
    """One variant's files: `x.safetensors` or its shards, `x.fp16.safetensors` or its shards."""
    found = sorted(folder.glob("*.safetensors"))
    halves = tuple(file for file in found if ".fp16" in file.name)
    whole = tuple(file for file in found if ".fp16" not in file.name)
    if chosen := (halves or whole) if small else (whole or halves):
        return chosen
    if any(folder.glob("*.bin")):
        raise ModelUnusable(f"{folder} has only .bin files, which can run code; want .safetensors")
    raise ModelUnusable(f"{folder} has no .safetensors file")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
