"""The wheel: everything that runs is in it, nothing else, and an unpacked copy works."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.system.studio import ROOT, Studio, picture

pytestmark = pytest.mark.slow

PACKAGES = ("daemon", "pipeline", "rules")
DATA = (
    "daemon/samples/*",
    "daemon/web/static/*",
    "pipeline/micro/checkpoint/**/*",
    "rules/demo/*.toml",
    "rules/examples/*.toml",
)
NOT_SHIPPED = "pipeline/micro/training/"
LARGEST = 9_000_000
"""Bytes. Nearly all of them are the demonstration model's weights."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the source, because a build leaves files beside it."""
    root = tmp_path_factory.mktemp("wheel")
    source, built = root / "source", root / "built"
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-build-isolation", "--wheel-dir", str(built), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (found,) = built.iterdir()
    return found


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an installation would put on the import path."""
    folder = tmp_path_factory.mktemp("unpacked")
    with ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def installed(unpacked: Path, tmp_path: Path) -> Iterator[Studio]:
    """A daemon that imports the unpacked wheel instead of the repository."""
    studio = Studio(tmp_path / "studio", PYTHONPATH=str(unpacked))
    yield studio
    studio.close()


def shipped() -> set[str]:
    """The files of the repository that belong in the wheel."""
    modules = {path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    data = {path for pattern in DATA for path in ROOT.glob(pattern) if path.is_file()}
    names = {path.relative_to(ROOT).as_posix() for path in modules | data}
    return {name for name in names if not name.startswith(NOT_SHIPPED)}


def test_the_wheel_holds_what_runs_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert found == shipped()
    assert not [name for name in found if name.endswith((".png", ".gif"))]
    assert wheel.stat().st_size < LARGEST


def test_nothing_in_the_wheel_imports_the_training() -> None:
    module = NOT_SHIPPED.strip("/").replace("/", ".")
    assert not [name for name in shipped() if name.endswith(".py")
                and module in (ROOT / name).read_text(encoding="utf-8")]  # fmt: skip


def test_an_unpacked_wheel_serves_its_page_and_makes_a_clip(installed: Studio) -> None:
    installed.start()
    for path in ("/", "/page/page.js", "/page/style.css"):
        assert installed.request("GET", path).status_code == 200, path
    installed.drop("cat.png", picture(1))
    installed.until_settled("cat.png", "done")
    assert installed.clips() == ["cat.mp4"]


def test_the_demo_of_an_unpacked_wheel_makes_its_clips(unpacked: Path, tmp_path: Path) -> None:
    rules = tmp_path / "demo" / "rules"
    shutil.copytree(unpacked / "rules" / "demo", rules)
    for rule in rules.iterdir():  # the demo uses rules that are there; a draft takes a second
        rule.write_text(rule.read_text().replace('"standard"', '"draft"'))
    where = "import daemon, pipeline, rules; print(*daemon.__path__, *pipeline.__path__)"
    imported = python(unpacked, tmp_path, "-c", where).split()
    assert all(Path(path).is_relative_to(unpacked) for path in imported)
    python(unpacked, tmp_path, "-m", "daemon", "demo", "demo")
    assert len(list((tmp_path / "demo" / "outbox").glob("*.mp4"))) == 3


def python(unpacked: Path, folder: Path, *arguments: str) -> str:
    """Run Python with the unpacked wheel and return its output."""
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(unpacked)},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout
