"""Previews: how a running clip looks so far, left in its staging for the hosts beside it."""

import contextlib
import os

from daemon.config.settings import Inbox
from daemon.fs.safe_path import open_beneath
from daemon.jobs.job import Job
from daemon.publish.originals import read_below
from daemon.publish.staging import staging_of

_NAME = "preview.jpg"
_MAX_BYTES = 64 * 1024


def store_preview(inbox: Inbox, job: Job, content: bytes) -> None:
    """Put the newest in the place of the one before, as far as that is possible."""
    staging = staging_of(inbox, job).relative_to(inbox.outbox)
    with contextlib.suppress(OSError), open_beneath(inbox.outbox, staging, make=False) as folder:
        part = folder / f"{_NAME}.part"
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
            file.write(content)
        part.replace(folder / _NAME)


def read_preview(inbox: Inbox, job: Job) -> bytes | None:
    """The JPEG of a running job's clip, where its host left one."""
    return read_below(inbox.outbox, staging_of(inbox, job) / _NAME, _MAX_BYTES)
