"""Folders that the settings name: created if missing, never emptied."""

import shutil
from pathlib import Path

from daemon.config.settings import Inbox, Settings

RULES = Path(__file__).resolve().parents[2] / "rules"
ROLES = ("path", "outbox", "archive", "failed", "rules")
PRIVATE = ".i2vd"
"""i2vd's private folder in an outbox: staging and posters."""


def create_folders(settings: Settings) -> list[Path]:
    """Create the missing folders, a new rules folder with a first rule; return the new paths."""
    made = []
    for folder in dict.fromkeys([settings.state, *_all(settings)]):
        if not folder.is_dir():
            folder.mkdir(parents=True)
            made.append(folder)
    for rules in {inbox.rules for inbox in settings.inbox} & set(made):
        first = rules / "90-default.toml"
        shutil.copyfile(RULES / "examples" / first.name, first)
        made.append(first)
    return made


def _all(settings: Settings) -> list[Path]:
    return [folder_of(inbox, role) for inbox in settings.inbox for role in ROLES]


def folder_of(inbox: Inbox, role: str) -> Path:
    """Return the folder that has this role (one of ROLES) for an inbox."""
    folder: Path = getattr(inbox, role)
    return folder
