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


def find_loop(settings: Settings) -> str | None:
    """Return why a picture that leaves an inbox would come into one again; None if none would.

    Folders are compared as the kernel sees them, through links and bind mounts.
    """
    inboxes = {_identity(inbox.path): inbox for inbox in settings.inbox}
    inboxes.pop(None, None)
    for inbox in settings.inbox:
        for role in ("archive", "failed"):
            real = folder_of(inbox, role).resolve()
            for folder in (real, *real.parents):
                other = inboxes.get(_identity(folder))
                if other is not None and (folder == real or other.recursive):
                    return (
                        f"inbox {inbox.name!r}: its {role} {real} lies in inbox {other.name!r}, so "
                        "each picture would be made again without end; choose another folder"
                    )
    return None


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:  # a share that is away is looked at when it is back
        return None
    return status.st_dev, status.st_ino


def _all(settings: Settings) -> list[Path]:
    return [folder_of(inbox, role) for inbox in settings.inbox for role in ROLES]


def folder_of(inbox: Inbox, role: str) -> Path:
    """Return the folder that has this role (one of ROLES) for an inbox."""
    folder: Path = getattr(inbox, role)
    return folder
