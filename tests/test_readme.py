"""The README tells all there is, and nothing that is not."""

import re
import tomllib
from pathlib import Path

import pytest
import typer

from daemon.cli.base import Exit
from daemon.cli.commands import app
from daemon.config.loader import load
from daemon.config.settings import Http, Inbox, Log, Model, Queue, Settings, WebhookSettings
from daemon.estimate.requirements import predicted
from pipeline.checkpoint import download
from pipeline.children.protocol import HEARTBEAT_TIMEOUTS
from pipeline.quality import QualityLimits
from pipeline.request.presets import I2VGEN_XL
from pipeline.request.spec import Request
from pipeline.sidecar import SCHEMA_FILE, Sidecar, schema

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SECTIONS = (Settings, Inbox, Queue, Model, QualityLimits, Http, WebhookSettings, Log)


def section(title: str) -> str:
    """The text under a heading, without what follows the next one."""
    found = re.search(rf"^#+ {title}\n(.*?)(?=^#+ |\Z)", README, re.DOTALL | re.MULTILINE)
    assert found, title
    return found[1]


def cells(text: str) -> set[str]:
    """What stands as code in the first column of the tables of a text."""
    rows = re.findall(r"^\| (.*?) \|", text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_every_setting_of_the_daemon_is_told() -> None:
    keys = {key for model in SECTIONS for key in model.model_fields}
    told = {name.strip("[]") for name in cells(section("Settings of the daemon"))}
    assert told == keys


def test_every_setting_of_a_clip_is_told() -> None:
    assert cells(section("Settings of a clip")) == set(Request.model_fields)


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_the_presets_are_as_told(readme: str) -> None:
    text = (ROOT / readme).read_text()
    rows = re.findall(r"^\| (\w+) \| (\d+)p \| (\d+) \| (\d+) \|", text, re.MULTILINE)
    told = {name: (int(side), int(frames), int(steps)) for name, side, frames, steps in rows}
    presets = I2VGEN_XL.presets
    assert told == {name: (p.side, p.frames, p.steps) for name, p in presets.items()}


def test_every_command_is_told() -> None:
    group = typer.main.get_command(app)
    names = set(group.commands)  # type: ignore[attr-defined]
    told = {name.split()[1] for name in cells(section("Commands")) if name.startswith("i2vd")}
    assert told == names


def test_every_exit_code_is_told() -> None:
    line = re.search(r"Exit codes: (.*?)\.", README, re.DOTALL)
    assert line
    assert set(re.findall(r"\d", line[1])) == {"0", *(str(int(code)) for code in Exit)}


def test_every_key_of_a_sidecar_is_told() -> None:
    assert cells(section("Beside every clip")) == set(Sidecar.model_fields)


def test_the_sidecar_schema_is_current() -> None:
    assert SCHEMA_FILE.read_text() == schema(), "run: python -m pipeline.sidecar"


def test_every_test_that_the_readme_names_exists() -> None:
    texts = README + (ROOT / "daemon" / "README.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", texts))
    code = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert named - set(re.findall(r"def (test_\w+)\(", code)) == set()
    assert len(named) > 20


@pytest.mark.parametrize("text", re.findall(r"```toml\n(.*?)```", README, re.DOTALL))
def test_every_example_is_sound(text: str, tmp_path: Path) -> None:
    content = tomllib.loads(text)
    if "make" in content:
        from daemon.intake.intake import checker
        from rules.parse import parse_rule

        rule, mistakes = parse_rule("x.toml", text, checker(I2VGEN_XL))
        assert rule is not None
        assert mistakes == []
    else:
        (tmp_path / "i2vd.toml").write_text(text)
        load(tmp_path / "i2vd.toml")


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.md")), ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    if ".venv" in path.parts or "demo" in path.parts:
        return
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_the_limits_of_silence_are_as_told() -> None:
    (row,) = re.findall(r"^\| `heartbeat_timeouts` \|.*\| (.*) \|$", README, re.MULTILINE)
    assert row == ", ".join(
        f"{stage} {seconds:.0f}" for stage, seconds in HEARTBEAT_TIMEOUTS.items()
    )


def test_the_size_of_the_weights_is_one_figure() -> None:
    models = typer.main.get_command(app).commands["model"]  # type: ignore[attr-defined]
    texts = (README, (ROOT / "README.zh-CN.md").read_text(), models.commands["pull"].help)
    for text in (*texts, download.LICENCE):
        assert set(re.findall(r"\b[45]\.\d Gi?B", text)) == {download.SIZE}


def test_a_card_of_4_gb_is_enough_for_each_preset() -> None:
    assert "4 GB is enough" in README
    found = predicted(I2VGEN_XL.name, list(I2VGEN_XL.presets), 4 * 10**9)
    assert {row.preset for row in found if row.fits and row.exact} == set(I2VGEN_XL.presets)
