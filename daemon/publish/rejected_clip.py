"""Rejected clip: refused by the quality check, and kept in the failed folder for inspection only.

It may be missing: the job is failed without it too.
"""

import contextlib
from pathlib import Path, PurePath

import structlog

from daemon.config.settings import Inbox
from daemon.fs.atomic import describe_os_error
from daemon.fs.fingerprint import FileState
from daemon.fs.move import move
from daemon.fs.probe import spelled_path
from daemon.fs.safe_path import find_beneath
from daemon.jobs.job import Job
from daemon.publish.publisher import CLIP
from daemon.publish.staging import staging_of

log = structlog.get_logger()


def keep_rejected_clip(inbox: Inbox, job: Job) -> None:
    """Move the clip of a job from staging to the failed folder, if there is one."""
    staging = staging_of(inbox, job).relative_to(inbox.outbox)
    try:
        with find_beneath(inbox.outbox, staging) as folder:
            if FileState.find(folder / CLIP):
                stem, suffix = _name(job)
                inside = PurePath(job.path).with_name(stem + suffix)
                move(folder / CLIP, inbox.failed, inside, suffix=suffix)
    except OSError as error:
        log.warning("rejected clip not kept", job=job.id, reason=describe_os_error(error))


def rejected_clip_of(job: Job, folder: Path) -> Path:
    """Return the path of a job's rejected clip in the folder of its picture. Raises OSError."""
    return spelled_path(folder, *_name(job))


def remove_rejected_clip(job: Job, folder: Path) -> None:
    """Remove the clip from the folder of its picture, if there is one; I/O errors are ignored."""
    with contextlib.suppress(OSError):
        rejected_clip_of(job, folder).unlink(missing_ok=True)


def _name(job: Job) -> tuple[str, str]:
    """Return stem and suffix of the clip; it does not look like the name of a finished clip."""
    return PurePath(job.path).name, f".refused-{job.id}.mp4"
