"""Owner names: the identity under which a daemon claims jobs."""

from pathlib import Path

from daemon.fs.instance import instance_id


def owner_name(host: str, state: Path, *, shared: bool) -> str:
    """Return the owner name: the host name, in a shared queue followed by an instance id.

    The id is stored in the state folder, so two hosts of one name are two owners. The lock of that
    folder makes the owner unique, so its running jobs can be requeued at once after a restart.
    Raises OSError.
    """
    if not shared:
        return host
    return f"{host} {instance_id(state)}"


def host_name(owner: str) -> str:
    """Return the host name in an owner name."""
    return owner.partition(" ")[0]
