"""A model that cannot make a clip is found while it loads, before any picture."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.checkpoint.layout import ModelUnusable
from pipeline.request.presets import MICRO, MICRO_FOLDER
from pipeline.worker.model.loader import LoadedModel, load_model
from pipeline.worker.self_test import self_test


@pytest.fixture
def fresh() -> LoadedModel:
    return loaded(MICRO)


def loaded(name: str) -> LoadedModel:
    model = load_model(name, "cpu", "float32", on_step=lambda: None)
    model.load_unet()
    return model


def test_a_sound_model_passes(micro: LoadedModel) -> None:
    self_test(micro)


@pytest.mark.parametrize(
    ("spoilt", "named"),
    [
        ("text_encoder", "encoders"),
        ("image_encoder", "encoders"),
        ("vae", "encoders"),
        ("unet", "unet"),
    ],
)
def test_weights_that_are_no_numbers_are_found(spoilt: str, named: str, tmp_path: Path) -> None:
    shutil.copytree(MICRO_FOLDER, tmp_path / "model")
    (file,) = (tmp_path / "model" / spoilt).glob("*.safetensors")
    tensors = {name: torch.full_like(each, math.nan) for name, each in load_file(file).items()}
    save_file(tensors, file)
    model = loaded(str(tmp_path / "model"))
    with pytest.raises(ModelUnusable, match=f"its {named} cannot be used: it gives no numbers"):
        self_test(model)


@pytest.mark.parametrize(
    "changes",
    [
        {"beta_schedule": "nothing known"},
        {"num_train_timesteps": 0},
        {"prediction_type": "guess"},
        {"trained_betas": "many"},
    ],
)
def test_a_scheduler_that_cannot_run_is_found(fresh: LoadedModel, changes: dict[str, Any]) -> None:
    fresh.scheduler |= changes
    with pytest.raises(ModelUnusable, match="its scheduler cannot be used"):
        self_test(fresh)


def test_the_lack_of_memory_is_left_to_the_ladder(
    fresh: LoadedModel, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fresh.unet, "forward", full)
    self_test(fresh)
    assert "no room to test the unet of micro" in capfd.readouterr().err
