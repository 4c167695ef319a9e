"""Submissions by key: the same request twice is one drop, also when a crash came between.

A caller that heard no answer asks again under the same key. The path is noted before the picture
gets its name there, so that afterwards it can be told whether it did.
"""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import sqlalchemy as sa

from daemon.config.settings import Inbox
from daemon.jobs.database import Database
from daemon.jobs.queries import JobQueries
from daemon.jobs.schema import jobs, submissions

_KEPT_SECONDS = 7 * 86400.0
"""Seconds for which a key is known."""

Announce = Callable[[str], None]
"""Is told a path in the inbox."""


class KeyTaken(Exception):
    """The key stands for another request."""


class IdempotentRequest(NamedTuple):
    """What is asked: `digest` is over all of it, `sha256` that of the picture."""

    key: str
    digest: str
    sha256: str


class IdempotencyKeys:
    """Safe to use from several threads, and on several hosts."""

    def __init__(self, database: Database, history: JobQueries) -> None:
        self._database = database
        self._history = history

    def once(self, asked: IdempotentRequest, inbox: Inbox, drop: Callable[[Announce], str]) -> str:
        """Where in the inbox it was dropped; `drop` is called if that has not been done before.

        `drop` announces each path before it puts the picture there. Raises KeyTaken.
        """
        with self._database.advisory_lock(f"submission {asked.key}", wait=True):
            noted = self._noted(asked)
            if noted is not None and self._was_dropped(inbox, *noted, asked.sha256):
                return noted[0]
            return drop(lambda path: self._note(asked, path))

    def _noted(self, asked: IdempotentRequest) -> tuple[str, int] | None:
        query = sa.select(submissions).where(submissions.c.key == asked.key)
        with self._database.read() as db:
            row = db.execute(query).first()
        if row is None:
            return None
        if row.digest != asked.digest:
            raise KeyTaken(f"the key {asked.key!r} was used for another request")
        return row.path, row.after

    def _note(self, asked: IdempotentRequest, path: str) -> None:
        old = submissions.c.at < self._database.now - _KEPT_SECONDS
        newest = sa.select(sa.func.coalesce(sa.func.max(jobs.c.id), 0)).scalar_subquery()
        with self._database.write() as db:
            db.execute(submissions.delete().where((submissions.c.key == asked.key) | old))
            db.execute(
                submissions.insert().values(
                    key=asked.key,
                    digest=asked.digest,
                    path=path,
                    after=newest,
                    at=self._database.now,
                )
            )

    def _was_dropped(self, inbox: Inbox, path: str, after: int, sha256: str) -> bool:
        made = self._history.by_path(inbox.name, path)
        if any(job.sha256 == sha256 and job.id > after for job in made):
            return True
        try:
            with (inbox.path / path).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except OSError:
            return False
