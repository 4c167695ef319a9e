"""What is measured on a GPU is tried on a CPU, with the demonstration model: it will run there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_the_speeds_beside_the_stock_pipeline(tmp_path: Path) -> None:
    asked = [
        "--device",
        "cpu",
        "--model",
        "micro",
        "--presets",
        "draft",
        "--steps",
        "2",
        "--compile",
    ]
    command = [sys.executable, "-m", "tests.gpu.run", "speed", *asked, "--rounds", "1"]
    ended = subprocess.run(
        [*command, "--results", tmp_path],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    rows = {row["case"]: row for row in json.loads((tmp_path / "speed.json").read_text())["rows"]}
    assert any(case.startswith("floor: ") for case in rows)
    whole = rows["step, all"]
    assert {"step, constants", "step, phases", "step, joined"} < rows.keys()
    assert whole["matrix_share"] > 0
    assert any(case.startswith("compiling, ") for case in rows)
    for case in ("step, all, compiled", "denoising, exact, compiled"):
        assert rows[case]["max_abs_diff"] < 1e-2
    assert rows["latents to frames, exact"]["max_abs_diff"] <= 1
    for what in ("denoising", "picture to latents"):
        off = {speed: rows[f"{what}, {speed}"]["max_abs_diff"] for speed in ("exact", "fast")}
        assert off["exact"] < 1e-2 < off["fast"], what
    assert "| draft | denoising, balanced |" in (tmp_path / "speed.md").read_text()
