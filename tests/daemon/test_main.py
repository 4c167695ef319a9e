"""The command itself: start-up checks, help, exit codes that need no daemon."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from daemon.cli.commands import app

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent


def i2vd(*args: str, cwd: Path, path: str = str(ROOT)) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("I2VD_")} | {"PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-P", "-m", "daemon", *args],
        capture_output=True, text=True, cwd=cwd, env=env, check=False,
    )  # fmt: skip


def test_a_foreign_package_with_one_of_our_names_is_reported(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "__init__.py").write_text("")
    run = i2vd("version", cwd=tmp_path, path=f"{tmp_path}:{ROOT}")
    assert run.returncode == 1
    assert "'rules' is not i2vd's own" in run.stderr
    assert str(tmp_path) in run.stderr


def test_files_in_the_working_folder_are_not_imported(tmp_path: Path) -> None:
    (tmp_path / "rules.py").write_text("raise SystemExit('ran a stranger')")
    assert i2vd("version", cwd=tmp_path).stdout.startswith("i2vd 0.")


def test_broken_settings_end_every_command_with_all_mistakes(tmp_path: Path) -> None:
    (tmp_path / "i2vd.toml").write_text("stop_grace = -1\nstat = 1\n")
    for command in ("run", "check", "jobs"):
        run = i2vd(command, cwd=tmp_path)
        assert run.returncode == 2
        assert "stop_grace" in run.stderr
        assert "did you mean 'state'?" in run.stderr
        assert "Traceback" not in run.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["i2vd.toml"]


class Said(NamedTuple):
    """The exit code and the messages of a command."""

    code: int
    stderr: str


@pytest.fixture
def say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """Run a command in this process: a process of its own takes a second to start."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Said:
        ended = CliRunner().invoke(app, arguments)
        assert isinstance(ended.exception, SystemExit)
        return Said(ended.exit_code, capfd.readouterr().err + ended.stderr)

    return run


def test_without_a_daemon_the_remote_commands_say_so(
    tmp_path: Path, say: Callable[..., Said]
) -> None:
    (tmp_path / "i2vd.toml").write_text('[http]\nlisten = "127.0.0.1:9"\n')
    for command in (
        ["jobs"], ["pause"], ["resume"], ["retry", "1"], ["cancel", "1"], ["priority", "1", "-5"],
    ):  # fmt: skip
        said = say(*command)
        assert said.code == 3
        assert "no i2vd answers at http://127.0.0.1:9" in said.stderr


def test_wrong_arguments_are_mistakes(tmp_path: Path, say: Callable[..., Said]) -> None:
    assert say("submit", "nothing.jpg").code == 2
    assert say("explain", "nothing.jpg").code == 2
    assert say("replay", "nothing.json").code == 2
    assert say("nonsense").code == 2
    (tmp_path / "cat.jpg").write_bytes(b"")
    said = say("render", "cat.jpg", "--prompt", "x", "-o", "c.mp4", "--steps", "5")
    assert said.code == 2
    assert "--steps: 5; allowed: 10 to 100" in said.stderr
    assert "must end in .mp4" in say("render", "cat.jpg", "--prompt", "x", "-o", "c.avi").stderr


@pytest.mark.parametrize("name", ["../missing", "damaged"])
def test_a_model_that_is_none_ends_the_start_with_its_reason(tmp_path: Path, name: str) -> None:
    (tmp_path / "damaged").mkdir()
    (tmp_path / "i2vd.toml").write_text(f'[model]\nname = "{name}"\n')
    for command in ("run", "check"):
        ended = i2vd(command, cwd=tmp_path)
        assert ended.returncode == 2
        assert "Traceback" not in ended.stderr
        assert "no such folder" in ended.stderr + ended.stdout or "model_index.json" in (
            ended.stderr + ended.stdout
        )
