"""The memory model: what it says of the published model, and of a checkpoint's files."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.memory.dimensions import PUBLISHED, dimensions_of
from pipeline.memory.modes import Mode, Rung
from pipeline.memory.peak_memory import peak, required_memory
from pipeline.request.presets import I2VGEN_XL, MICRO_FOLDER

RESULTS = Path(__file__).parents[2] / "gpu" / "results"
GB = 10**9
TARGETS = {
    "draft": (4.5, 3.6, 2.5),
    "standard": (6.5, 4.5, 3.0),
    "high": (11.0, 6.5, 4.5),
    "ultra": (20.0, 9.0, 6.5),
}
"""GB of a card that each preset may take in each exact mode, at full size and length."""


def needed(rung: Rung, correction: float | None = None, *, gpu: bool = True) -> int:
    """Bytes for a clip with guidance of the published model."""
    found = peak(rung, PUBLISHED, "float16", guided=True)
    return required_memory(found, rung.mode, correction, gpu=gpu)


@pytest.mark.parametrize("name", TARGETS)
def test_every_preset_is_within_its_targets(name: str) -> None:
    preset = I2VGEN_XL.presets[name]
    exact = [mode for mode in Mode if mode.exact]
    for mode, target in zip(exact, TARGETS[name], strict=True):
        rung = Rung(mode, preset.side, preset.side, preset.frames)
        assert needed(rung) <= target * GB


rungs = st.builds(
    Rung,
    st.sampled_from(Mode),
    st.integers(1, 16).map(lambda n: 64 * n),
    st.integers(1, 16).map(lambda n: 64 * n),
    st.integers(8, 32),
)


@given(rungs, st.booleans())
def test_more_asked_is_never_less_needed(rung: Rung, guided: bool) -> None:
    def most(asked: Rung, dtype: str = "float16", guided: bool = guided) -> int:
        return peak(asked, PUBLISHED, dtype, guided=guided).most

    assert most(rung) > 0
    assert most(Rung(rung.mode, rung.width, rung.height, rung.frames + 1)) >= most(rung)
    assert most(rung, guided=True) >= most(rung, guided=False)
    assert most(rung, "bfloat16") == most(rung)
    assert most(rung, "float32") > most(rung)


def test_what_a_gpu_took_was_allowed_for() -> None:
    found = json.loads((RESULTS / "modes.json").read_text(encoding="utf-8"))["rows"]
    for row in found:
        preset = I2VGEN_XL.presets[row["preset"]]
        rung = Rung(Mode(row["mode"]), preset.side, preset.side, preset.frames)
        assert row["peak_gb"] * GB < needed(rung), row
    assert len(found) >= 7


def test_what_was_measured_takes_the_place_of_what_is_allowed_for() -> None:
    rung = Rung(Mode.RESIDENT, 512, 512, 16)
    found = peak(rung, PUBLISHED, "float16", guided=True)
    assert needed(rung) > needed(rung, gpu=False) > found.most
    assert needed(rung, 1.2) == pytest.approx(1.2 * needed(rung, 1.0), rel=1e-6)


def test_the_anatomy_of_a_checkpoint_is_read_from_its_files() -> None:
    micro = dimensions_of("micro")
    config = json.loads((MICRO_FOLDER / "unet" / "config.json").read_text())
    assert micro.channels == tuple(config["block_out_channels"])
    file = MICRO_FOLDER / "unet" / "diffusion_pytorch_model.safetensors"
    assert micro.unet == pytest.approx(file.stat().st_size / 2, rel=0.02)
    assert len(micro.pieces) == len(micro.channels)
    assert 0 < max(micro.pieces) < micro.unet


def test_a_model_that_is_not_here_is_taken_for_the_published_one() -> None:
    assert dimensions_of("nobody/nothing") == PUBLISHED
