"""Posters: a small picture of each of the newest clips, kept in the state folder for the page.

The worker leaves it in staging, where others may write: it is copied as it is, through no link and
never decoded. Losing one loses nothing; the page shows the clip's own first frame then.
"""

import contextlib
import os
import threading
from pathlib import Path

from daemon.job import Job
from daemon.original import open_below
from daemon.settings import Inbox
from daemon.staging import staging_of
from pipeline.protocol import LARGEST_POSTER

POSTER = "poster.jpg"
KEPT = 10_000
"""The oldest of more are removed; some hundred megabytes at most."""
_BETWEEN = 500
"""Posters that are taken between two looks for too many."""


class Posters:
    """Of one state folder."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "posters"
        self._taken = 0
        self._turn = threading.Lock()

    def take(self, inbox: Inbox, job: Job) -> bool:
        """Copy the poster from the job's staging; whether there is one now."""
        try:
            with os.fdopen(open_below(inbox.outbox, staging_of(inbox, job) / POSTER), "rb") as file:
                content = file.read(LARGEST_POSTER + 1)
            if not content or len(content) > LARGEST_POSTER:
                return False
            with self._turn:
                self._put(job.id, content)
        except (OSError, ValueError):
            return False
        return True

    def _put(self, number: int, content: bytes) -> None:
        self._folder.mkdir(exist_ok=True)
        part = self._folder / f"{number}.part"
        part.write_bytes(content)
        part.replace(self._folder / f"{number}.jpg")
        self._taken += 1
        if self._taken % _BETWEEN == 0:
            self.tidy()

    def of(self, job: Job) -> bytes | None:
        """The JPEG of a job's clip, where there is one here."""
        with contextlib.suppress(OSError):
            return (self._folder / f"{job.id}.jpg").read_bytes()
        return None

    def tidy(self, newest: int | None = None) -> None:
        """Remove the oldest, and what a crash left.

        At the start also those of jobs after the `newest`: they were in a queue that is gone.
        """
        with contextlib.suppress(OSError, ValueError):
            numbers = []
            for file in self._folder.iterdir():
                number = int(file.stem)
                if file.suffix == ".part" or (newest is not None and number > newest):
                    file.unlink()
                else:
                    numbers.append(number)
            for number in sorted(numbers)[:-KEPT]:
                (self._folder / f"{number}.jpg").unlink()
