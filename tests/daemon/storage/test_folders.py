"""Creation of the configured folders at the first start."""

from pathlib import Path

from daemon.config.settings import Inbox, Settings
from daemon.storage.folders import create_folders


def settings_in(root: Path) -> Settings:
    roles = ("path", "outbox", "rules", "archive", "failed")
    inbox = Inbox(**{role: root / role for role in roles})  # type: ignore[arg-type]
    return Settings(state=root / "state", inbox=(inbox,))


def test_folders_are_made_once_with_a_first_rule(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    made = create_folders(settings)
    assert tmp_path / "path" in made
    assert (tmp_path / "rules" / "90-default.toml").is_file()
    assert create_folders(settings) == []


def test_an_emptied_rules_folder_stays_empty(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    create_folders(settings)
    (tmp_path / "rules" / "90-default.toml").unlink()
    create_folders(settings)
    assert list((tmp_path / "rules").iterdir()) == []
