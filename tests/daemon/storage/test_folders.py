"""Creation of the configured folders at the first start."""

from pathlib import Path

from daemon.config.settings import Inbox
from daemon.storage.folders import create_folders


def inbox_in(root: Path) -> Inbox:
    roles = ("path", "outbox", "rules", "archive", "failed")
    return Inbox(**{role: root / role for role in roles})  # type: ignore[arg-type]


def test_folders_are_made_once_with_a_first_rule(tmp_path: Path) -> None:
    inbox = inbox_in(tmp_path)
    made = create_folders(inbox)
    assert tmp_path / "path" in made
    assert (tmp_path / "rules" / "90-default.toml").is_file()
    assert create_folders(inbox) == []


def test_an_emptied_rules_folder_stays_empty(tmp_path: Path) -> None:
    inbox = inbox_in(tmp_path)
    create_folders(inbox)
    (tmp_path / "rules" / "90-default.toml").unlink()
    create_folders(inbox)
    assert list((tmp_path / "rules").iterdir()) == []
