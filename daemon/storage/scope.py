"""Scope of an I/O error: all work on the folders of an inbox, or one file of one job.

An error number does not tell. EACCES may mean a folder that the daemon lost, or one album of
another user's in it, and EINVAL a name with a colon. So it is found by trial: if the folders take
a test write, the error is the job's own.
"""

import errno
import os
import time
from collections.abc import Collection
from pathlib import Path, PurePath

from daemon.config.settings import Inbox
from daemon.fs.probe import write_probe
from daemon.fs.safe_path import open_beneath
from daemon.jobs.database import QueueUnavailable
from daemon.storage.folder_threads import FolderHangs, FolderThreads
from daemon.storage.folders import PRIVATE
from daemon.storage.volumes import VolumeMissing

_SHORTAGE_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
"""A test write may be smaller than what had no room."""
_PROOF_SECONDS = 2.0
"""Time for which a test write counts, so that a thousand errors cost one."""

_proved: dict[Path, float] = {}
"""Monotonic time of the last successful test write, by folder."""


class StorageFailure(OSError):
    """An error in i2vd's own files, which no name or folder of a job can cause."""


def find_folder_error(
    inbox: Inbox, error: OSError, roles: Collection[str] = ("inbox", "outbox", "archive", "failed")
) -> OSError | None:
    """Return the error that affects all jobs of an inbox; None if `error` is one job's own.

    `roles` are the folders that the failed operation has used. Writes to them; may block on a dead
    share.
    """
    if isinstance(error, (QueueUnavailable, VolumeMissing, StorageFailure, FolderHangs)):
        return error
    folders = {role: path for role, path in output_folders(inbox).items() if role in roles}
    if error.errno in _SHORTAGE_ERRNOS and not _is_on_own_disk(error, folders.values()):
        return error
    try:
        for role, folder in folders.items():
            _prove(role, folder)
    except OSError as failed:
        return failed
    return None


async def find_folder_error_in(
    threads: FolderThreads, inbox: Inbox, error: OSError
) -> OSError | None:
    """Do as `find_folder_error`, in a thread of the inbox; FolderHangs counts as its error."""
    try:
        return await threads.run(inbox, find_folder_error, inbox, error)
    except FolderHangs as hangs:
        return hangs


def output_folders(inbox: Inbox) -> dict[str, Path]:
    """Return the folders that jobs change, by role; without the inbox if its pictures are kept."""
    found = {"outbox": inbox.outbox, "archive": inbox.archive, "failed": inbox.failed}
    return found if inbox.on_success == "keep" else {"inbox": inbox.path} | found


def write_test(role: str, folder: Path) -> None:
    """Write to a folder as jobs do: in an outbox also to staging. Raises OSError."""
    write_probe(folder)
    if role == "outbox":
        with open_beneath(folder, PurePath(PRIVATE)) as staging:
            write_probe(staging)


def _prove(role: str, folder: Path) -> None:
    if time.monotonic() >= _proved.get(folder, -_PROOF_SECONDS) + _PROOF_SECONDS:
        write_test(role, folder)
        _proved[folder] = time.monotonic()


def _is_on_own_disk(error: OSError, folders: Collection[Path]) -> bool:
    """Return True if the file of the error is on another file system than the folders."""
    name = error.filename2 or error.filename
    if not isinstance(name, str):
        return False
    path = Path(name)
    try:
        while not os.path.lexists(path) and path != path.parent:
            path = path.parent
        return path.stat().st_dev not in {folder.stat().st_dev for folder in folders}
    except OSError:
        return False
