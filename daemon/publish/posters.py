"""Posters: a small picture of each of the newest clips of an outbox, for the page of any host.

The worker leaves it in staging, from where it moves into `OUTBOX/.i2vd/posters`. Others may write
there: it is read through no link, and never decoded. Losing one loses nothing; the page shows the
clip's own first frame then.
"""

import contextlib
import threading
from pathlib import Path

from daemon.config.settings import Inbox
from daemon.fs.safe_path import open_beneath
from daemon.jobs.job import Job
from daemon.publish.originals import read_below
from daemon.publish.staging import ALL, staging_of
from pipeline.children.protocol import MAX_POSTER_BYTES

POSTER = "poster.jpg"
MAX_POSTERS = 10_000
"""The oldest of more are removed; some hundred megabytes at most."""
_BETWEEN = 500
"""Posters that are taken between two looks for too many."""
POSTERS = ALL / "posters"


class Posters:
    """Those that this host took are counted, so that it looks for too many now and then."""

    def __init__(self) -> None:
        self._taken = 0
        self._turn = threading.Lock()

    def store(self, inbox: Inbox, job: Job) -> bool:
        """Move the poster out of the job's staging; whether there is one, also from before."""
        staging = staging_of(inbox, job).relative_to(inbox.outbox)
        with (
            contextlib.suppress(OSError),
            open_beneath(inbox.outbox, staging, make=False) as made,
            open_beneath(inbox.outbox, POSTERS) as kept,
        ):
            (made / POSTER).rename(kept / _name(job))
        with self._turn:
            self._taken += 1
            is_time = self._taken % _BETWEEN == 0
        if is_time:
            remove_old_posters(inbox.outbox)
        return read_poster(inbox, job) is not None


def read_poster(inbox: Inbox, job: Job) -> bytes | None:
    """The JPEG of a job's clip, where there is one."""
    return read_below(inbox.outbox, inbox.outbox / POSTERS / _name(job), MAX_POSTER_BYTES)


def remove_old_posters(outbox: Path, newest: int | None = None) -> None:
    """Remove the oldest.

    At the start also those of jobs after the `newest`: they were in a queue that is gone.
    """
    with contextlib.suppress(OSError), open_beneath(outbox, POSTERS, make=False) as folder:
        numbers = sorted(int(file.stem) for file in folder.glob("*.jpg") if file.stem.isdecimal())
        old = numbers[:-MAX_POSTERS]
        late = [number for number in numbers if newest is not None and number > newest]
        for number in (*old, *late):
            with contextlib.suppress(OSError):  # another host was faster
                (folder / f"{number}.jpg").unlink()


def _name(job: Job) -> str:
    return f"{job.id}.jpg"
