"""`i2vd demo`, twice in a row; the second time with rules that were changed meanwhile."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def sidecars(folder: Path) -> list[Path]:
    return list((folder / "outbox").glob("*.mp4.json"))


def test_the_demo_makes_three_clips_each_time(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    for round_ in (1, 2):
        run = subprocess.run(
            [sys.executable, "-m", "daemon", "demo", str(folder)],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        log = (folder / "daemon.log").read_text()
        assert run.returncode == 0, run.stdout + run.stderr + log
        assert len(list((folder / "outbox").glob("*.mp4"))) == 3 * round_
        assert len(sidecars(folder)) == 3 * round_
        assert len(list((folder / "archive").glob("*.jpg"))) == 3 * round_
        assert [p for p in (folder / "inbox").iterdir() if not p.name.startswith(".")] == []
        for word in ("cat.mp4", "landscape.mp4", "person.mp4", "standard", "outbox"):
            assert word in run.stdout or round_ == 2
        assert log.count('"daemon stopped"') == round_
        for rule in (folder / "rules").glob("*.toml"):
            rule.write_text(rule.read_text().replace('"standard"', '"draft"'))
    presets = [json.loads(told.read_text())["requested"]["preset"] for told in sidecars(folder)]
    assert sorted(presets) == ["draft"] * 3 + ["standard"] * 3
