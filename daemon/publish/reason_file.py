"""Reason file: why a picture is in the failed folder, and the remedy, beside it as JSON.

It may be missing: the queue knows the reason too. A name that the folder does not take is spelled
so that it does, and one that cannot be replaced, such as a folder's, is numbered.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from daemon.fs.atomic import atomic_write
from daemon.fs.probe import spelled_path
from daemon.jobs.job import Job

_SUFFIX = ".reason.json"
_MAX_NUMBER = 20


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
    text = json.dumps(reasons, indent=2, ensure_ascii=False) + "\n"
    for path in _paths(picture):
        try:
            return atomic_write(path, text)
        except OSError as error:
            if not os.path.lexists(path):
                raise
            refusal = error
    raise refusal


def remove_reason(picture: Path) -> None:
    """Remove the reasons beside a picture, if there are some; I/O errors are ignored."""
    with contextlib.suppress(OSError):
        for number, path in enumerate(_paths(picture)):
            if number and not os.path.lexists(path):
                return
            with contextlib.suppress(OSError):
                path.unlink()


def _paths(picture: Path) -> Iterator[Path]:
    """Yield the paths that the reason may have, in the order in which they are tried."""
    for number in range(1, _MAX_NUMBER + 1):
        suffix = f"-{number}{_SUFFIX}" if number > 1 else _SUFFIX
        yield spelled_path(picture.parent, picture.name, suffix)
