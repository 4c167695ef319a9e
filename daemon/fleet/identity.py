"""Owner names: the identity under which a daemon claims jobs."""

import uuid
from pathlib import Path

from daemon.fs.atomic import atomic_write
from rules.text_file import decode, read_bytes


def owner_name(host: str, state: Path, *, shared: bool) -> str:
    """Return the owner name: the host name, in a shared queue followed by an instance id.

    The id is stored in the state folder, so two hosts of one name are two owners. The lock of that
    folder makes the owner unique, so its running jobs can be requeued at once after a restart.
    Raises OSError.
    """
    if not shared:
        return host
    file = state / "instance"
    if not file.exists():
        atomic_write(file, f"{uuid.uuid4().hex[:12]}\n")
    return f"{host} {decode(read_bytes(file)).strip()}"


def host_name(owner: str) -> str:
    """Return the host name in an owner name."""
    return owner.partition(" ")[0]
