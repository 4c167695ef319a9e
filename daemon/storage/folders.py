"""Folders that the settings name: created if missing, never emptied."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from daemon.config.settings import Inbox

RULES = Path(__file__).resolve().parents[2] / "rules"
ROLES = ("path", "outbox", "archive", "failed", "rules")
PRIVATE = ".i2vd"
"""i2vd's private folder in an outbox: staging and posters."""


def create_folders(inbox: Inbox) -> list[Path]:
    """Create the missing folders, a new rules folder with a first rule; return the new paths."""
    made = []
    for folder in dict.fromkeys(folder_of(inbox, role) for role in ROLES):
        if folder.is_dir():
            continue
        try:
            folder.mkdir(parents=True)
        except FileExistsError:  # made for another inbox at the same time
            if not folder.is_dir():
                raise
        else:
            made.append(folder)
    if inbox.rules in made:
        first = inbox.rules / "90-default.toml"
        shutil.copyfile(RULES / "examples" / first.name, first)
        made.append(first)
    return made


Identity = tuple[int, int]
"""Device and inode of a folder."""


class Locations(NamedTuple):
    """Where an inbox's folders are as the kernel sees them, through links and bind mounts."""

    inbox: Identity | None
    targets: dict[str, list[tuple[Path, Identity | None]]]
    """Archive and failed folder, by role, each followed by its parents."""


def locate(inbox: Inbox) -> Locations:
    """Find out where the folders of an inbox are. May block on a dead share."""
    targets = {}
    for role in ("archive", "failed"):
        real = folder_of(inbox, role).resolve()
        targets[role] = [(folder, _identity(folder)) for folder in (real, *real.parents)]
    return Locations(_identity(inbox.path), targets)


def find_loop(inboxes: Iterable[Inbox], located: Mapping[str, Locations]) -> str | None:
    """Return why a picture that leaves an inbox would come into one again; None if none would.

    `located`: by name, without the inboxes whose folders hang.
    """
    known = [inbox for inbox in inboxes if inbox.name in located]
    places = {located[inbox.name].inbox: inbox for inbox in known}
    places.pop(None, None)
    for inbox in known:
        for role, (real, *parents) in located[inbox.name].targets.items():
            for folder, identity in (real, *parents):
                other = places.get(identity)
                if other is not None and (folder == real[0] or other.recursive):
                    return (
                        f"inbox {inbox.name!r}: its {role} {real[0]} lies in inbox "
                        f"{other.name!r}, so each picture would be made again without end; choose "
                        "another folder"
                    )
    return None


def _identity(folder: Path) -> Identity | None:
    try:
        status = folder.stat()
    except OSError:  # a share that is away is looked at when it is back
        return None
    return status.st_dev, status.st_ino


def folder_of(inbox: Inbox, role: str) -> Path:
    """Return the folder that has this role (one of ROLES) for an inbox."""
    folder: Path = getattr(inbox, role)
    return folder
