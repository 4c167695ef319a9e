"""`i2vd submit`: a copy in the inbox, and a warning if no rule takes it."""

import contextlib
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from daemon.cli.commands import app
from daemon.config.loader import load
from daemon.jobs.database import Database
from daemon.storage.volumes import VolumeMarkers


@pytest.fixture
def picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save(tmp_path / "dog.png")
    (tmp_path / "rules").mkdir()
    return tmp_path / "dog.png"


MAKE = '[make]\nprompt = "zoom in"\n'


@pytest.mark.parametrize(
    ("rule", "warns"),
    [
        ('[match]\nnames = ["cat*"]\n' + MAKE, True),
        ('[match]\nnames = ["cat*"]\nmystake = 1\n' + MAKE, False),
        (MAKE, False),
    ],
)
def test_a_picture_that_no_rule_takes_is_told(picture: Path, rule: str, warns: bool) -> None:
    (picture.parent / "rules" / "10-rule.toml").write_text(rule, encoding="utf-8")
    ended = CliRunner().invoke(app, ["submit", str(picture)])
    assert ended.exit_code == 0
    assert Path(ended.stdout.strip()).name == "dog.png"
    assert Path(ended.stdout.strip()).is_file()
    said = "warning: dog.png: no rule matches its name and folder; it stays in the inbox"
    assert ended.stderr.startswith(said) is warns


def test_an_inbox_whose_share_is_away_is_not_filled(
    picture: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = load(None)
    settings.state.mkdir()
    inbox = settings.inbox[0].path
    inbox.mkdir()
    with contextlib.closing(Database(settings.queue_url)) as database:
        VolumeMarkers(settings, database).check(settings.inbox[0], "path")
        assert CliRunner().invoke(app, ["submit", str(picture)]).exit_code == 0
        shutil.rmtree(inbox)
        ended = CliRunner().invoke(app, ["submit", str(picture)])
        assert (ended.exit_code, inbox.exists()) == (1, False)
        inbox.mkdir()  # the mount point, without its share
        ended = CliRunner().invoke(app, ["submit", str(picture)])
    assert (ended.exit_code, [*inbox.iterdir()]) == (1, [])
    assert str(inbox) in capfd.readouterr().err
