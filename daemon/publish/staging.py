"""Staging: the private folder of each attempt, `OUTBOX/.i2vd/<job>-<attempt>/`."""

import contextlib
import shutil
from collections.abc import Callable, Collection
from pathlib import Path, PurePath

from daemon.config.settings import Inbox
from daemon.fs.safe_path import open_beneath
from daemon.jobs.job import Job
from daemon.storage.folders import PRIVATE

ALL = PurePath(PRIVATE)


_WITHDRAWN = ".withdrawn"


def staging_of(inbox: Inbox, job: Job) -> Path:
    """Return the private folder of an attempt, on the outbox's file system."""
    return inbox.outbox / ALL / name_of(job)


def name_of(job: Job) -> str:
    """Return the name of an attempt's folder."""
    return f"{job.id}-{job.attempt}"


def withdrawn(name: str) -> str:
    """Return the name that a staging folder gets while its publication is withdrawn."""
    return name + _WITHDRAWN


def create_staging(inbox: Inbox, job: Job) -> Path:
    """Create an empty folder for an attempt. Raises OSError."""
    with open_beneath(inbox.outbox, ALL) as folder:
        shutil.rmtree(folder / name_of(job), ignore_errors=True)
        (folder / name_of(job)).mkdir()
    return staging_of(inbox, job)


def remove_staging(inbox: Inbox, job: Job) -> None:
    """Remove the folder of an attempt; I/O errors are ignored."""
    with contextlib.suppress(OSError), open_beneath(inbox.outbox, ALL, make=False) as folder:
        for name in (name_of(job), withdrawn(name_of(job))):
            shutil.rmtree(folder / name, ignore_errors=True)


def remove_stale_staging(
    outbox: Path, running_attempts: Callable[[], Collection[tuple[int, int]]]
) -> None:
    """Remove the folders of finished attempts; I/O errors are ignored.

    `running_attempts` is called after the folders are listed. A folder is created only after its
    job is claimed, so no host removes another's. Its exceptions propagate.
    """
    with contextlib.suppress(OSError), open_beneath(outbox, ALL, make=False) as folder:
        found = [*folder.glob("*-*")]
        if not found:
            return
        needed = {f"{job}-{attempt}" for job, attempt in running_attempts()}
        for each in found:
            if each.name.removesuffix(_WITHDRAWN) not in needed:
                shutil.rmtree(each, ignore_errors=True)
