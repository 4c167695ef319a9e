"""A folder, pipe, socket, device or link in the place of every file that the daemon opens.

Nothing waits for it, nothing stays open, and no error is of an unexpected kind.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from daemon.config import loader
from daemon.config.secret_file import read_token
from daemon.config.settings import Inbox, SettingsError
from daemon.fleet.identity import owner_name
from daemon.intake.idempotency import IdempotencyKeys
from daemon.intake.submit import OverrideFile, write_override
from daemon.publish.picture_location import open_below, read_below
from daemon.storage import volumes
from rules.live import LiveRules
from tests.rules.test_text_file import IRREGULAR, open_files

NAME = "instance"
"""The name that all these files have here, but for those whose name is fixed."""


def read_settings(folder: Path) -> None:
    loader.load(folder / NAME)


def look_up_submission(folder: Path) -> None:
    keys = IdempotencyKeys(Mock(), Mock(by_path=Mock(return_value=[])))
    assert not keys._was_dropped(Inbox(path=folder), NAME, 0, "0" * 64)


def reload_rules(folder: Path) -> None:
    (folder / NAME).rename(folder / "10-cats.toml")
    rules = LiveRules(folder, lambda _: [])
    assert not rules.reload(0.0).ok
    rules.has_changed()
    (folder / "10-cats.toml").rename(folder / NAME)


def read_marker(folder: Path) -> None:
    (folder / NAME).rename(folder / volumes.MARKER)
    assert volumes._read(folder) is None
    (folder / volumes.MARKER).rename(folder / NAME)


READERS: dict[str, Callable[[Path], object]] = {
    "settings": read_settings,
    "token": lambda folder: read_token(folder / NAME),
    "rules": reload_rules,
    "marker": read_marker,
    "instance": lambda folder: owner_name("host", folder, shared=True),
    "submission": look_up_submission,
    "override": lambda folder: write_override(
        (folder / NAME).with_suffix(""), OverrideFile("", "text")
    ),
    "picture": lambda folder: open_below(folder, folder / NAME),
    "poster": lambda folder: read_below(folder, folder / NAME, 1000),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", IRREGULAR)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_not_waited_for_and_not_left_open(
    tmp_path: Path, reader: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (reader, kind) == ("settings", "pipe"):
        return  # such as --config <(command)
    if reader in ("settings", "token", "rules", "instance") and kind == "link":
        return  # the operator's files may be links
    if (reader, kind) == ("instance", "link to nothing"):
        return  # it is written anew
    monkeypatch.chdir(tmp_path)
    IRREGULAR[kind](tmp_path / NAME)
    before = open_files()
    for _ in range(5):
        with contextlib.suppress(OSError, SettingsError):
            READERS[reader](tmp_path)
    assert open_files() == before
