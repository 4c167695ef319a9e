"""Commands on paths that are not UTF-8, and on what is no file: a sentence, never a traceback."""

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from typer.testing import CliRunner

from daemon.cli.commands import app
from tests.system.studio import Studio, picture

pytestmark = pytest.mark.slow

NAMES = [os.fsdecode(b"caf\xe9.png"), os.fsdecode(b"\xff\xfe.png"), os.fsdecode(b"caf\xe9/cat.png")]
"""File names that are not UTF-8, and a good one in such a folder."""


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    studio = Studio(tmp_path_factory.mktemp("odd") / "studio")
    studio.rule("90-default", '[make]\nprompt = "a cat"\npreset = "draft"\nsize = 32\n')
    return studio


def run(studio: Studio, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    ended = studio.command(*arguments)
    assert "Traceback" not in ended.stderr
    assert ended.returncode in (0, 1, 2, 3)
    assert (ended.stdout + ended.stderr).strip()
    (ended.stdout + ended.stderr).encode()  # no byte of the name is printed as it is
    return ended


@pytest.mark.parametrize("name", NAMES)
def test_submit_takes_a_folder_and_refuses_a_name_that_is_not_utf8(
    studio: Studio, name: str
) -> None:
    path = studio.root / "elsewhere" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(2))
    ended = run(studio, "submit", path)
    assert ended.returncode == (0 if name.endswith("/cat.png") else 2)
    for taken in studio.inbox.glob("*.png"):
        taken.unlink()


def test_render_and_replay_take_any_path(studio: Studio) -> None:
    folder = studio.root / os.fsdecode(b"\xe9t\xe9")
    folder.mkdir()
    source, clip = folder / os.fsdecode(b"caf\xe9.png"), folder / os.fsdecode(b"caf\xe9.mp4")
    source.write_bytes(picture(3))
    options = ("--preset", "draft", "--size", "32", "--prompt", "a cat")
    assert run(studio, "render", source, "-o", clip, *options).returncode == 0
    assert clip.is_file()
    sidecar = clip.with_name(clip.name + ".json")
    assert json.loads(sidecar.read_text())["source"]["path"] == "caf\\xe9.png"
    assert sorted(folder.iterdir()) == sorted([source, clip, sidecar])
    content = sidecar.read_bytes().replace(
        sha256(clip.read_bytes()).hexdigest().encode(), b"0" * 64
    )
    sidecar.write_bytes(b"\xef\xbb\xbf" + content)  # edited on Windows
    again = run(studio, "replay", sidecar, "--picture", source)
    assert "differs: the bytes" in again.stdout
    assert again.returncode == 1


def test_an_option_that_is_not_utf8_is_refused(studio: Studio) -> None:
    source = studio.root / "plain.png"
    source.write_bytes(picture(4))
    prompt = os.fsdecode(b"caf\xe9")
    for arguments in (("render", source, "-o", "x.mp4"), ("submit", source)):
        assert run(studio, *arguments, "--prompt", prompt).returncode == 2
    assert run(studio, "drain", prompt).returncode == 3


@pytest.mark.parametrize("command", ["check", "run", "jobs"])
def test_settings_in_a_folder_that_is_not_utf8_are_refused(studio: Studio, command: str) -> None:
    folder = studio.root / os.fsdecode(b"r\xe9glages")
    folder.mkdir(exist_ok=True)
    config = folder / "i2vd.toml"
    config.write_text("")
    ended = run(studio, command, "--config", config)
    assert ended.returncode == 2
    assert "state: is not UTF-8; rename the folder" in ended.stderr


def test_a_settings_file_may_have_any_name(studio: Studio) -> None:
    config = studio.root / os.fsdecode(b"r\xe9glages.toml")
    config.write_text("")
    assert run(studio, "check", "--config", config).returncode == 0
    config.write_text("nonsense = 1")
    assert "nonsense" in run(studio, "check", "--config", config).stderr


def test_demo_says_what_is_wrong_with_its_folder(studio: Studio) -> None:
    ended = run(studio, "demo", studio.root / os.fsdecode(b"d\xe9mo"))
    assert ended.returncode == 1
    assert "not UTF-8" in ended.stderr


@pytest.mark.parametrize("command", ["explain", "submit", "check --config", "replay"])
@pytest.mark.parametrize("kind", ["folder", "device", "loop", "missing"])
def test_what_is_no_file_is_refused(
    studio: Studio, command: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = studio.root / f"{kind}.png"
    if kind == "folder":
        path.mkdir(exist_ok=True)
    elif kind in ("device", "loop") and not path.is_symlink():
        path.symlink_to("/dev/null" if kind == "device" else path)
    monkeypatch.chdir(studio.root)
    ended = CliRunner().invoke(app, [*command.split(), str(path)])
    assert ended.exit_code == 2
    assert isinstance(ended.exception, SystemExit)


def test_a_full_standard_output_is_no_traceback(studio: Studio) -> None:
    command = ["bash", "-c", f"{sys.executable} -m daemon check >/dev/full"]
    ended = subprocess.run(
        command, cwd=studio.root, env=studio.variables(), capture_output=True, check=False
    )
    assert ended.returncode == 1
    assert b"Traceback" not in ended.stderr
    assert b"No space left" in ended.stderr
