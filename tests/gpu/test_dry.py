"""Dry run of the GPU measurements on a CPU, with the micro model."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from tests.gpu.run import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    """Two threads wait for each other if other tests run: 164 seconds instead of 14."""
    torch.set_num_threads(1)


def rows(folder: Path, what: str, *arguments: str) -> list[dict[str, Any]]:
    """Return the rows that a measurement writes, in JSON and Markdown."""
    micro = ("--device", "cpu", "--model", "micro", "--presets", "draft", "--results", str(folder))
    with mock.patch("sys.argv", ["run", what, *micro, *arguments]), torch.set_grad_enabled(False):
        main()
    found: list[dict[str, Any]] = json.loads((folder / f"{what}.json").read_text())["rows"]
    assert (folder / f"{what}.md").read_text().count("| draft |") == len(found)
    return found


def test_the_speeds_beside_the_stock_pipeline(tmp_path: Path) -> None:
    measured = rows(tmp_path, "speed", "--steps", "2", "--rounds", "1")
    found = {row["case"]: row for row in measured}
    assert any(case.startswith("floor: ") for case in found)
    whole = found["step, all"]
    assert {"step, step_invariants", "step, subpixel_upsample", "step, fused_qkv"} < found.keys()
    assert whole["matrix_share"] > 0
    assert found["latents to frames, exact"]["max_abs_diff"] <= 1
    for what in ("denoising", "picture to latents"):
        off = {speed: found[f"{what}, {speed}"]["max_abs_diff"] for speed in ("exact", "fast")}
        assert off["exact"] < 1e-2 < off["fast"], what


def test_every_mode(tmp_path: Path) -> None:
    found = {row["mode"]: row for row in rows(tmp_path, "modes", "--modes", "resident,offload")}
    assert found.keys() == {"resident", "offload"}
    assert {row["outcome"] for row in found.values()} == {"made"}
    for row in found.values():
        assert 0.8 * row["peak_gb"] <= row["predicted_gb"] < row["needed_gb"]


def test_a_card_that_is_too_small_for_the_first_mode(tmp_path: Path) -> None:
    found = rows(tmp_path, "cards", "--cards", "0.02,1")
    assert [row["card"] for row in found] == [0.02, 1.0]
    assert found[0]["tried"] != "resident"
    assert found[1]["tried"] == "resident"


def test_a_real_daemon(tmp_path: Path) -> None:
    measured = rows(tmp_path, "service", "--clips", "2")
    found = {row["case"]: row["seconds or share"] for row in measured}
    for which in ("first", "second"):
        until = [found[f"{which} start, until {what}"] for what in ("libraries", "model")]
        assert 0 < until[0] < until[1] < found[f"{which} start, until first step"]
    assert found["device at work, a clip"] > 0
    assert found["device idle, between two"] >= 0
    for share in ("share of all that is idle", "share embedded ahead"):
        assert 0 <= found[share] <= 1
