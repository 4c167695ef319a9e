"""Originals: find and open the picture of a job, in the inbox or the archive.

Files are opened without following symlinks, and only if the content is the job's.
"""

import contextlib
import os
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from daemon.config.settings import Settings
from daemon.fs.safe_path import open_beneath
from daemon.jobs.job import IN_INBOX, Job
from daemon.storage.folders import folder_of
from pipeline.children.picture_file import picture_digest
from rules.text_file import open_regular


class PictureMissing(Exception):
    """The picture is gone, or another file has its name."""


class PictureLocation(NamedTuple):
    """Path of a picture, and the configured folder that contains it."""

    path: Path
    within: Path


def locate_picture(settings: Settings, job: Job) -> PictureLocation | None:
    """Return the location recorded in the queue; None if it is in no folder of this host."""
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
    """Return the job with its relative paths made absolute for this host."""
    inbox, location = settings.inbox_named(job.inbox), locate_picture(settings, job)
    changes: dict[str, Any] = {}
    if location is not None and job.picture_location not in IN_INBOX:
        changes["picture_path"] = str(location.path)
    if inbox is not None and job.result and "clip" in job.result:
        clip = inbox.outbox / job.result["clip"]
        changes["result"] = {**job.result, "clip": str(clip)}
    return job.model_copy(update=changes)


def open_original(settings: Settings, job: Job) -> BinaryIO:
    """Open the picture at position 0, after checking its SHA-256. Raises PictureMissing."""
    location = locate_picture(settings, job)
    if location is None:
        raise PictureMissing(
            f"the picture of job {job.id} is {job.picture_location}; drop it again"
        )
    try:
        file = os.fdopen(open_below(location.within, location.path), "rb")
    except (OSError, ValueError) as error:
        raise PictureMissing(
            f"the picture of job {job.id} is not at {location.path} any more"
        ) from error
    if picture_digest(file) != job.sha256:
        file.close()
        raise PictureMissing(f"another picture lies at {location.path} than that of job {job.id}")
    file.seek(0)
    return file


def open_below(folder: Path, file: Path) -> int:
    """Open a regular file below `folder` without following symlinks; return its descriptor.

    Raises ValueError for a path outside `folder`, and OSError.
    """
    inside = file.relative_to(folder)
    with open_beneath(folder, inside.parent, make=False) as parent:
        return open_regular(parent / inside.name)


def read_below(folder: Path, file: Path, max_bytes: int) -> bytes | None:
    """Read a regular file below `folder` without following symlinks.

    Returns None if the file is missing, empty or larger than `max_bytes`.
    """
    with contextlib.suppress(OSError, ValueError), os.fdopen(open_below(folder, file), "rb") as it:
        content = it.read(max_bytes + 1)
        return content if 0 < len(content) <= max_bytes else None
    return None
