"""The figures in the READMEs are those of the committed results, and none is left out."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.micro.training.cost import CASES
from pipeline.worker.optimizations.registry import OPTIMIZATIONS

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "tests" / "bench" / "results"
GPU = ROOT / "tests" / "gpu" / "results"
README = (ROOT / "pipeline" / "README.md").read_text()
FRONT = (ROOT / "README.md").read_text()


def rows(name: str) -> dict[str, dict[str, Any]]:
    """The rows of a result, by case."""
    return {row["case"]: row for row in json.loads((RESULTS / name).read_text())["rows"]}


def told(title: str, first: str) -> dict[str, list[str]]:
    """The cells of the table under a title whose first column is `first`, by that column."""
    text = README.split(f"\n## {title}\n")[1].split("\n## ")[0]
    table = text.split(f"\n| {first} |")[1].split("\n\n")[0]
    lines = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in table.split("\n")[2:]]
    return {cells[0]: cells[1:] for cells in lines}


def test_the_table_of_exact_transforms_is_the_result() -> None:
    found = {
        case.removeprefix("mid-size, "): [f"{row['ratio']:.2f}", f"{row['max_abs_diff']:.1e}"]
        for case, row in rows("speed.json").items()
    }
    table = told("The same in less time", "transform")
    named = {
        "all, on the demonstration model": "micro, all",
        "VAE decoder": "VAE decoder, subpixel_upsample",
    }
    for name, cells in table.items():
        assert cells[-2:] == found[named.get(name, name)], name
    assert OPTIMIZATIONS.keys() < table.keys()
    assert len(table) == len(found)


def test_the_table_of_a_gpus_speed_is_the_result() -> None:
    found = {
        f"{row['preset']}, {row['case']}": row
        for row in json.loads((GPU / "speed.json").read_text())["rows"]
    }
    table = told("The same in less time", "on an H200")
    assert len(table) >= 11
    for name, (theirs, ours, ratio, difference) in table.items():
        row = found[name]
        assert theirs == f"{row['reference_seconds']:.3f}", name
        assert (ours, ratio) == (f"{row['seconds']:.3f}", f"{row['ratio']:.2f}"), name
        lossy = name.endswith(("balanced", "fast"))
        frames = "latents to frames" in name
        apart = f"{row['max_abs_diff']:.0f} of 255" if frames else f"{row['max_abs_diff']:.4f}"
        assert difference == ("" if lossy else apart), name
    exact = found["standard, denoising, exact"]
    assert f"at {exact['matrix_share']:.0%}".replace("%", " %") in README
    assert f"{exact['ratio']:.2f} times as fast" in FRONT
    for speed in ("balanced", "fast"):
        assert f"{found[f'standard, denoising, {speed}']['ratio']:.1f} times" in FRONT


def test_the_table_of_a_gpus_memory_is_the_result() -> None:
    found = json.loads((GPU / "modes.json").read_text())["rows"]
    lines = [
        f"| {row['preset']} | {row['mode']} | {row['seconds']:.1f} | {row['predicted_gb']:.2f} "
        f"| {row['peak_gb']:.2f} |"
        for row in found
    ]
    assert "\n".join(["|---|---|---|---|---|", *lines]) + "\n\n" in README
    assert found[0]["preset"] == "standard"
    assert f"a `standard` clip takes {found[0]['seconds']:.1f} seconds" in FRONT


def test_the_table_of_prices_is_the_result() -> None:
    found = rows("quality.json")
    table = told("Sooner, at a price", "case")
    assert table.keys() == found.keys() == CASES.keys()
    for name, cells in table.items():
        row = found[name]
        apart = [row["psnr_to_exact_db"], row["worst_psnr_db"]]
        assert cells == [
            f"{1 - row['work_left']:.0%}".replace("%", " %"),
            f"{row['ratio']:.2f}",
            *("" if each is None else f"{each:.1f} dB" for each in apart),
            f"{row['psnr_to_truth_db']:.1f} dB",
            f"{row['motion_right']} of {row['clips']}",
        ], name


@pytest.mark.parametrize("name", ["speed.json", "quality.json"])
def test_a_result_says_where_it_comes_from(name: str) -> None:
    facts = json.loads((RESULTS / name).read_text())
    assert {"date", "machine", "versions", "command"} < facts.keys()
    assert re.match(r"(i2vd bench \w+|python -m [\w.]+) .*--json", facts["command"])
