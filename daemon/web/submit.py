"""Submitting over http: an upload is a drop into an inbox, nothing more; so is a picture again."""

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

from fastapi import APIRouter, Form, Header, HTTPException, UploadFile
from pydantic import BaseModel

from daemon.beneath import beneath
from daemon.database import LedgerUnavailable
from daemon.intake import checker
from daemon.operate import Refused
from daemon.original import NotThere, open_original
from daemon.settings import Inbox
from daemon.submission import Announce, KeyTaken, Submission, Submissions
from daemon.submit import NotAName, Sidecar, copy_in, make_beside, picture_name
from daemon.web.jobs import Number, find

if TYPE_CHECKING:
    from daemon.app import App


class Dropped(BaseModel):
    """Where a picture was dropped; its jobs, once it was looked at: `/api/jobs?inbox=&path=`."""

    inbox: str
    path: str
    warnings: list[str]


class Again(BaseModel):
    """Settings of the clip, as in a rule's `[make]`; without any, the rules say."""

    make: dict[str, Any] = {}


Key = Annotated[str | None, Header(min_length=1, max_length=200)]


class _Door:
    """Puts pictures into inboxes for the calls below."""

    def __init__(self, app: "App") -> None:
        self._app = app
        self._check = checker(app.parts.family)
        self._submissions = Submissions(app.database, app.history)

    def put(
        self,
        content: BinaryIO,
        place: PurePosixPath,
        inbox: Inbox,
        make: dict[str, Any],
        key: str | None,
    ) -> Dropped:
        """Drop it at that place in an inbox, or near it; once for each key."""
        sidecar, warnings = self._beside(make)
        if why := self._app.room.lacking.get(inbox.name):
            raise HTTPException(507, why)

        def copy(announce: Announce = lambda _: None) -> Path:
            folder = inbox.path / place.parent
            with beneath(inbox.path, place.parent) as entered:
                there = copy_in(
                    content,
                    place.name,
                    entered,
                    sidecar,
                    lambda path: announce(folder / path.name),
                )
            return folder / there.name

        try:
            if key is None:
                there = copy()
            else:
                sha256 = _sha256(content)
                whole = json.dumps([sha256, inbox.name, str(place), sidecar])
                digest = hashlib.sha256(whole.encode()).hexdigest()
                there = self._submissions.once(Submission(key, digest, sha256), inbox, copy)
        except KeyTaken as taken:
            raise HTTPException(422, str(taken)) from taken
        except LedgerUnavailable:
            raise
        except OSError as error:
            told = f"inbox {inbox.name}: {error.strerror or error}"
            raise HTTPException(507, told) from error
        path = str(there.relative_to(inbox.path))
        return Dropped(inbox=inbox.name, path=path, warnings=warnings)

    def _beside(self, make: dict[str, Any]) -> tuple[Sidecar | None, list[str]]:
        """The sidecar that says it, and warnings."""
        if not make:
            return None, []
        sidecar, _, mistakes = make_beside(make, self._check)
        fatal = [str(mistake) for mistake in mistakes if mistake.fatal]
        if fatal:
            raise HTTPException(422, "; ".join(fatal))
        return sidecar, [str(mistake) for mistake in mistakes]


def submit(app: "App") -> APIRouter:
    """The calls."""
    calls = APIRouter(prefix="/api", tags=["jobs"])
    door = _Door(app)

    @calls.post("/jobs", status_code=202)
    def drop(
        picture: UploadFile,
        inbox: Annotated[str | None, Form(description="default: the first")] = None,
        make: Annotated[str, Form(description="settings of the clip as JSON")] = "",
        idempotency_key: Key = None,
    ) -> Dropped:
        """Drop a picture into an inbox. The same key twice is one drop."""
        target = inbox_of(app, inbox)
        try:
            name = picture_name(picture.filename or "")
        except NotAName as refusal:
            raise HTTPException(422, str(refusal)) from refusal
        if (picture.size or 0) > app.settings.http.max_upload:
            raise HTTPException(413, f"{name} has over {app.settings.http.max_upload:,} bytes")
        return door.put(picture.file, PurePosixPath(name), target, _settings(make), idempotency_key)

    @calls.post("/jobs/{job}/again", status_code=202)
    def again(number: Number, wanted: Again, idempotency_key: Key = None) -> Dropped:
        """Drop a job's picture into its inbox once more: a copy, the original stays."""
        job = find(app, number)
        try:
            content = open_original(app.settings, job)
        except NotThere as gone:
            raise Refused(str(gone)) from gone
        with content:
            target = inbox_of(app, job.inbox)
            return door.put(content, PurePosixPath(job.path), target, wanted.make, idempotency_key)

    return calls


def _settings(make: str) -> dict[str, Any]:
    try:
        settings = json.loads(make or "{}")
    except (ValueError, RecursionError) as error:
        raise HTTPException(422, f"make: not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise HTTPException(422, 'make: must be an object, such as {"prompt": "zoom in"}')
    return settings


def inbox_of(app: "App", name: str | None) -> Inbox:
    """The inbox of that name, or the first. Raises HTTPException 422."""
    inbox = app.settings.inbox[0] if name is None else app.settings.inbox_named(name)
    if inbox is None:
        known = ", ".join(each.name for each in app.settings.inbox)
        raise HTTPException(422, f"there is no inbox {name!r}; known: {known}")
    return inbox


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while part := file.read(1 << 20):
        digest.update(part)
    file.seek(0)
    return digest.hexdigest()
