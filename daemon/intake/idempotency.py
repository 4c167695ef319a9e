"""Idempotency keys: a request that is sent twice is one drop, also across a crash.

A caller without an answer sends its request again under the same key. The path is recorded before
the picture gets its name, so that a repeated request can check whether it was dropped.
"""

import errno
import os
from collections.abc import Callable
from typing import NamedTuple

import sqlalchemy as sa

from daemon.config.settings import Inbox
from daemon.jobs.database import Database
from daemon.jobs.queries import JobQueries
from daemon.jobs.schema import jobs, submissions
from daemon.publish.picture_location import open_below
from pipeline.children.picture_file import picture_digest
from rules.text_file import NotRegular

_KEPT_SECONDS = 7 * 86400.0
"""Seconds for which a key is remembered."""

Announce = Callable[[str], None]
"""Callback for a path in the inbox, before the picture gets that name."""


class KeyTaken(Exception):
    """The key was used for another request."""


class IdempotentRequest(NamedTuple):
    """A submission: `digest` covers the whole request, `sha256` the picture."""

    key: str
    digest: str
    sha256: str


class IdempotencyKeys:
    """Safe to use from several threads, and on several hosts."""

    def __init__(self, database: Database, queries: JobQueries) -> None:
        self._database = database
        self._queries = queries

    def drop_once(
        self, request: IdempotentRequest, inbox: Inbox, drop: Callable[[Announce], str]
    ) -> str:
        """Return the picture's path in the inbox; call `drop` unless it was dropped before.

        `drop` announces each path before it puts the picture there. Raises KeyTaken, and OSError if
        the inbox cannot be read now.
        """
        with self._database.advisory_lock(f"submission {request.key}", wait=True):
            recorded = self._find(request)
            if recorded is not None and self._was_dropped(inbox, *recorded, request.sha256):
                return recorded[0]
            return drop(lambda path: self._record(request, path))

    def _find(self, request: IdempotentRequest) -> tuple[str, int] | None:
        query = sa.select(submissions).where(submissions.c.key == request.key)
        with self._database.read() as db:
            row = db.execute(query).first()
        if row is None:
            return None
        if row.digest != request.digest:
            raise KeyTaken(f"the key {request.key!r} was used for another request")
        return row.path, row.after

    def _record(self, request: IdempotentRequest, path: str) -> None:
        old = submissions.c.at < self._database.now - _KEPT_SECONDS
        newest = sa.select(sa.func.coalesce(sa.func.max(jobs.c.id), 0)).scalar_subquery()
        with self._database.write() as db:
            db.execute(submissions.delete().where((submissions.c.key == request.key) | old))
            db.execute(
                submissions.insert().values(
                    key=request.key,
                    digest=request.digest,
                    path=path,
                    after=newest,
                    at=self._database.now,
                )
            )

    def _was_dropped(self, inbox: Inbox, path: str, after: int, sha256: str) -> bool:
        found = self._queries.by_path(inbox.name, path)
        if any(job.sha256 == sha256 and job.id > after for job in found):
            return True
        try:
            with os.fdopen(open_below(inbox.path, inbox.path / path), "rb") as file:
                return picture_digest(file) == sha256
        except (NotRegular, ValueError):
            return False
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return False
            raise  # nothing is known: to drop it again could make it twice
