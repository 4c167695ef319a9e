"""The original: a job's picture, wherever it lies, opened through no link and only as itself."""

import contextlib
import hashlib
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from daemon.config.settings import Settings
from daemon.fs.safe_path import open_beneath
from daemon.jobs.job import IN_INBOX, Job
from daemon.storage.folders import folder_of


class PictureMissing(Exception):
    """The picture is gone, or another lies in its place."""


class PictureLocation(NamedTuple):
    """Where a picture lies: `path`, and the folder of ours that it is below."""

    path: Path
    within: Path


def locate_picture(settings: Settings, job: Job) -> PictureLocation | None:
    """Where the ledger knows the picture to be; None where that is in no folder of this host."""
    inbox = settings.inbox_named(job.inbox)
    if inbox is None:
        return None
    if job.picture_location in IN_INBOX:
        return PictureLocation(inbox.path / job.path, inbox.path)
    if job.picture_location in ("archive", "failed") and job.picture_path:
        folder = folder_of(inbox, job.picture_location)
        return PictureLocation(folder / job.picture_path, folder)
    return None


def with_local_paths(settings: Settings, job: Job) -> Job:
    """The job with the paths of this host, for people and programs on it."""
    inbox, lies = settings.inbox_named(job.inbox), locate_picture(settings, job)
    changes: dict[str, Any] = {}
    if lies is not None and job.picture_location not in IN_INBOX:
        changes["picture_path"] = str(lies.path)
    if inbox is not None and job.result and "clip" in job.result:
        clip = inbox.outbox / job.result["clip"]
        changes["result"] = {**job.result, "clip": str(clip)}
    return job.model_copy(update=changes)


def open_original(settings: Settings, job: Job) -> BinaryIO:
    """The picture, at its beginning, with the very content that the job was made of.

    Raises NotThere.
    """
    lies = locate_picture(settings, job)
    if lies is None:
        location = job.picture_location
        raise PictureMissing(f"the picture of job {job.id} is {location}; drop it again")
    try:
        file = os.fdopen(open_below(lies.within, lies.path), "rb")
    except (OSError, ValueError) as error:
        raise PictureMissing(
            f"the picture of job {job.id} is not at {lies.path} any more"
        ) from error
    if hashlib.file_digest(file, "sha256").hexdigest() != job.sha256:
        file.close()
        raise PictureMissing(f"another picture lies at {lies.path} than that of job {job.id}")
    file.seek(0)
    return file


def open_below(folder: Path, file: Path) -> int:
    """A descriptor of a plain file below `folder`, reached through no link.

    Raises ValueError for a path that leads elsewhere, OSError.
    """
    inside = file.relative_to(folder)
    with open_beneath(folder, inside.parent, make=False) as place:
        found = os.open(place / inside.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(found).st_mode):
        return found
    os.close(found)
    raise ValueError(f"{file} is no plain file")


def read_below(folder: Path, file: Path, most: int) -> bytes | None:
    """What a plain file below `folder` holds, reached through no link.

    None where there is none, or nothing in it, or more than `most` bytes.
    """
    with contextlib.suppress(OSError, ValueError), os.fdopen(open_below(folder, file), "rb") as it:
        content = it.read(most + 1)
        return content if 0 < len(content) <= most else None
    return None
