"""Posters: a thumbnail of each of the newest clips of an outbox, for the page of any host.

The worker writes it to staging, from where it moves into `OUTBOX/.i2vd/posters`. Others may write
there, so a poster is read without following symlinks and never decoded. A lost poster is no
failure: the page then shows the clip's own first frame.
"""

import contextlib
import threading
from pathlib import Path

from daemon.config.settings import Inbox
from daemon.fs.safe_path import open_beneath
from daemon.jobs.job import Job
from daemon.publish.picture_location import read_below
from daemon.publish.staging import ALL, staging_of
from pipeline.children.protocol import MAX_POSTER_BYTES

POSTER = "poster.jpg"
MAX_POSTERS = 10_000
"""The oldest above this number are removed; it bounds them to some hundred megabytes."""
_SWEEP_EVERY = 500
"""Posters stored between two sweeps for old ones."""
POSTERS = ALL / "posters"


class Posters:
    """Stores posters, and sweeps old ones after every `_SWEEP_EVERY` of this host."""

    def __init__(self) -> None:
        self._stored = 0
        self._lock = threading.Lock()

    def store(self, inbox: Inbox, job: Job) -> bool:
        """Move the poster out of staging; return True if the job has one, also from earlier."""
        staging = staging_of(inbox, job).relative_to(inbox.outbox)
        with (
            contextlib.suppress(OSError),
            open_beneath(inbox.outbox, staging, make=False) as source,
            open_beneath(inbox.outbox, POSTERS) as target,
        ):
            (source / POSTER).rename(target / _name(job))
        with self._lock:
            self._stored += 1
            sweep_due = self._stored % _SWEEP_EVERY == 0
        if sweep_due:
            remove_old_posters(inbox.outbox)
        return read_poster(inbox, job) is not None


def read_poster(inbox: Inbox, job: Job) -> bytes | None:
    """Return the poster of a job's clip as JPEG, or None."""
    return read_below(inbox.outbox, inbox.outbox / POSTERS / _name(job), MAX_POSTER_BYTES)


def remove_old_posters(outbox: Path, newest: int | None = None) -> None:
    """Remove the oldest posters above MAX_POSTERS.

    With `newest`, as at start-up, also remove those of later job ids: they belong to a lost queue.
    """
    with contextlib.suppress(OSError), open_beneath(outbox, POSTERS, make=False) as folder:
        numbers = sorted(int(file.stem) for file in folder.glob("*.jpg") if file.stem.isdecimal())
        old = numbers[:-MAX_POSTERS]
        late = [number for number in numbers if newest is not None and number > newest]
        for number in (*old, *late):
            with contextlib.suppress(OSError):  # another host removed it first
                (folder / f"{number}.jpg").unlink()


def _name(job: Job) -> str:
    return f"{job.id}.jpg"
