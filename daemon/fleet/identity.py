"""The name under which this daemon claims jobs."""

import uuid
from pathlib import Path

from daemon.fs.atomic import atomic_write


def owner_name(host: str, state: Path, *, shared: bool) -> str:
    """The host's name; in a queue that hosts share with a number that the state folder keeps.

    Who holds the folder's lock is alone under it, so that after a restart what it was running goes
    back at once; two hosts of one name are two owners. Raises OSError.
    """
    if not shared:
        return host
    file = state / "instance"
    if not file.exists():
        atomic_write(file, f"{uuid.uuid4().hex[:12]}\n")
    return f"{host} {file.read_text(encoding='utf-8').strip()}"


def host_name(owner: str) -> str:
    """The host's name in the name of an owner."""
    return owner.partition(" ")[0]
