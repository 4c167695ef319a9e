"""Reason file: why a picture is in the failed folder, and the remedy, beside it as JSON.

It may be missing: the queue knows the reason too. A name that the folder does not take is spelled
so that it does.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from daemon.fs.atomic import atomic_write
from daemon.fs.probe import spelled_path
from daemon.jobs.job import Job

_SUFFIX = ".reason.json"


def write_reason(picture: Path, failed: Sequence[Job], rejected_clips: Mapping[int, str]) -> None:
    """Write the reasons beside a picture in the failed folder. Raises OSError.

    `rejected_clips`: names of the clips that are kept for inspection, by job.
    """
    reasons = [
        {
            "job": job.id,
            "state": job.state,
            "reason": job.error,
            "tries": job.failures + 1,
            "look": rejected_clips.get(job.id),
            "at": datetime.fromtimestamp(job.finished or 0, UTC).isoformat(timespec="seconds"),
            "again": f"i2vd retry {job.id}",
        }
        for job in failed
    ]
    atomic_write(
        spelled_path(picture.parent, picture.name, _SUFFIX),
        json.dumps(reasons, indent=2, ensure_ascii=False) + "\n",
    )


def remove_reason(picture: Path) -> None:
    """Remove the reason beside a picture, if there is one; I/O errors are ignored."""
    with contextlib.suppress(OSError):
        spelled_path(picture.parent, picture.name, _SUFFIX).unlink(missing_ok=True)
