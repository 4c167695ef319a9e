"""Staging: the private folder of each attempt, `OUTBOX/.i2vd/<job>-<attempt>/`."""

import contextlib
import shutil
from collections.abc import Callable, Collection
from pathlib import Path, PurePath

from daemon.config.settings import Inbox
from daemon.fs.safe_path import open_beneath
from daemon.jobs.job import Job

ALL = PurePath(".i2vd")
"""In an outbox, what is not for its users: staging, and the posters."""


def staging_of(inbox: Inbox, job: Job) -> Path:
    """The private folder of an attempt, on the outbox's file system."""
    return inbox.outbox / ALL / name_of(job)


def name_of(job: Job) -> str:
    """What the folder of an attempt is called."""
    return f"{job.id}-{job.attempt}"


def create_staging(inbox: Inbox, job: Job) -> Path:
    """A new folder for an attempt. Raises OSError."""
    with open_beneath(inbox.outbox, ALL) as folder:
        shutil.rmtree(folder / name_of(job), ignore_errors=True)
        (folder / name_of(job)).mkdir()
    return staging_of(inbox, job)


def remove_staging(inbox: Inbox, job: Job) -> None:
    """Remove the folder of an attempt, as far as it can be removed."""
    with contextlib.suppress(OSError), open_beneath(inbox.outbox, ALL, make=False) as folder:
        shutil.rmtree(folder / name_of(job), ignore_errors=True)


def remove_stale_staging(outbox: Path, at_work: Callable[[], Collection[tuple[int, int]]]) -> None:
    """Remove the folders of attempts that are over, as far as they can be removed.

    `at_work` is asked only once the folders are known: who makes one has claimed its job before,
    so that no host takes another's away. Raises what it raises.
    """
    with contextlib.suppress(OSError), open_beneath(outbox, ALL, make=False) as folder:
        found = [*folder.glob("*-*")]
        if not found:
            return
        needed = {f"{job}-{attempt}" for job, attempt in at_work()}
        for each in found:
            if each.name not in needed:
                shutil.rmtree(each, ignore_errors=True)
