"""Folders that are damaged models: an error for the operator, whatever is wrong in them."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.checkpoint.layout import ModelMissing, ModelUnusable, find
from pipeline.memory.dimensions import PUBLISHED, dimensions_of, read_dimensions
from pipeline.request.presets import MICRO_FOLDER

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def cut(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def replace_folder(folder: Path) -> None:
    (folder / "model_index.json").unlink()
    (folder / "model_index.json").mkdir()


def replace_by_pipe(folder: Path) -> None:
    (folder / "vae/config.json").unlink()
    os.mkfifo(folder / "vae/config.json")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no index": lambda folder: (folder / "model_index.json").unlink(),
    "a folder as the index": replace_folder,
    "an index that is no JSON": lambda folder: (folder / "model_index.json").write_text("{"),
    "an index that is no text": lambda folder: (folder / "model_index.json").write_bytes(b"\xff"),
    "an index that is a list": lambda folder: (folder / "model_index.json").write_text("[]"),
    "a nested index": lambda folder: (folder / "model_index.json").write_text("[" * 100_000),
    "an empty configuration": lambda folder: (folder / "unet/config.json").write_text("{}"),
    "a class that is a number": lambda folder: (folder / "vae/config.json").write_text(
        '{"_class_name": 7}'
    ),
    "classes that are numbers": lambda folder: (folder / "text_encoder/config.json").write_text(
        '{"architectures": [7]}'
    ),
    "a pipe as a configuration": replace_by_pipe,
    "no configuration": lambda folder: (folder / "scheduler/scheduler_config.json").unlink(),
    "widths that are texts": lambda folder: (folder / "unet/config.json").write_text(
        json.dumps({"block_out_channels": "wide", "attention_head_dim": None})
    ),
    "no weights": lambda folder: (folder / WEIGHTS).unlink(),
    "empty weights": lambda folder: cut(folder / WEIGHTS, 0),
    "weights cut in the header": lambda folder: cut(folder / WEIGHTS, 100),
    "a header of all memory": lambda folder: (folder / WEIGHTS).write_bytes(b"\xff" * 20),
    "a header that is a list": lambda folder: (folder / WEIGHTS).write_bytes(
        (2).to_bytes(8, "little") + b"[]"
    ),
    "a header without shapes": lambda folder: (folder / WEIGHTS).write_bytes(
        (9).to_bytes(8, "little") + b'{"a": {}}'
    ),
    "no layers": lambda folder: (folder / "text_encoder/model.safetensors").write_bytes(
        (2).to_bytes(8, "little") + b"{}"
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_model_is_told(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MICRO_FOLDER, folder)
    read_dimensions(find(str(folder), small=True))
    DAMAGE[kind](folder)
    with pytest.raises(ModelUnusable, match="model") as caught:
        read_dimensions(find(str(folder), small=True))
    assert not isinstance(caught.value, ModelMissing)
    assert dimensions_of(str(folder)) == PUBLISHED


@pytest.mark.parametrize(
    "name",
    ["../missing", "missing", "./x/y", "a/..", "x/y/z", "", "/", "-/-", "a--b/c", "a\nb", ".git/x"],
)
def test_a_name_that_is_no_model_is_told(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelUnusable):
        find(name, small=True)


@pytest.mark.parametrize("name", ["ali-vilab/i2vgen-xl-not-here", "/mnt/not-mounted/model"])
def test_a_model_may_still_come(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelMissing):
        find(name, small=True)
