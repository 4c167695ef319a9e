"""Previews: the latest frame of a running clip, stored in staging for the other hosts."""

import contextlib
import os

from daemon.config.settings import Inbox
from daemon.fs.safe_path import open_beneath
from daemon.jobs.job import Job
from daemon.publish.picture_location import read_below
from daemon.publish.staging import staging_of

_NAME = "preview.jpg"
_MAX_BYTES = 64 * 1024


def store_preview(inbox: Inbox, job: Job, content: bytes) -> None:
    """Replace the preview with the newest one; an I/O error is ignored."""
    staging = staging_of(inbox, job).relative_to(inbox.outbox)
    with contextlib.suppress(OSError), open_beneath(inbox.outbox, staging, make=False) as folder:
        part = folder / f"{_NAME}.part"
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
            file.write(content)
        part.replace(folder / _NAME)


def read_preview(inbox: Inbox, job: Job) -> bytes | None:
    """Return the preview of a running job's clip as JPEG, or None."""
    return read_below(inbox.outbox, staging_of(inbox, job) / _NAME, _MAX_BYTES)
