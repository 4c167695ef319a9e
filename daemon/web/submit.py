"""Submitting over http: an upload is a drop into an inbox, nothing more."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

from fastapi import APIRouter, Form, Header, HTTPException, UploadFile
from pydantic import BaseModel

from daemon.database import LedgerUnavailable
from daemon.intake import checker
from daemon.settings import Inbox
from daemon.submission import Announce, KeyTaken, Submission, Submissions
from daemon.submit import NotAName, Sidecar, copy_in, make_beside, picture_name

if TYPE_CHECKING:
    from daemon.app import App


class Dropped(BaseModel):
    """Where a picture was dropped; its jobs, once it was looked at: `/api/jobs?inbox=&path=`."""

    inbox: str
    path: str
    warnings: list[str]


def submit(app: "App") -> APIRouter:
    """The call."""
    calls = APIRouter(prefix="/api", tags=["jobs"])
    check = checker(app.parts.family)
    submissions = Submissions(app.database, app.history)

    def beside(make: str) -> tuple[Sidecar | None, list[str]]:
        """The sidecar that says it, and warnings."""
        try:
            settings = json.loads(make or "{}")
        except (ValueError, RecursionError) as error:
            raise HTTPException(422, f"make: not JSON: {error}") from error
        if not isinstance(settings, dict):
            raise HTTPException(422, 'make: must be an object, such as {"prompt": "zoom in"}')
        if not settings:
            return None, []
        sidecar, mistakes = make_beside(settings, check)
        fatal = [str(mistake) for mistake in mistakes if mistake.fatal]
        if fatal:
            raise HTTPException(422, "; ".join(fatal))
        return sidecar, [str(mistake) for mistake in mistakes]

    @calls.post("/jobs", status_code=202)
    def drop(
        picture: UploadFile,
        inbox: Annotated[str | None, Form(description="default: the first")] = None,
        make: Annotated[str, Form(description="settings of the clip as JSON")] = "",
        idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
    ) -> Dropped:
        """Drop a picture into an inbox. The same key twice is one drop."""
        target = _inbox(app, inbox)
        try:
            name = picture_name(picture.filename or "")
        except NotAName as refusal:
            raise HTTPException(422, str(refusal)) from refusal
        if (picture.size or 0) > app.settings.http.max_upload:
            raise HTTPException(413, f"{name} has over {app.settings.http.max_upload:,} bytes")
        sidecar, warnings = beside(make)
        if why := app.room.lacking.get(target.name):
            raise HTTPException(507, why)

        def copy(announce: Announce = lambda _: None) -> Path:
            return copy_in(picture.file, name, target.path, sidecar, announce)

        try:
            if idempotency_key is None:
                there = copy()
            else:
                sha256 = _sha256(picture.file)
                whole = json.dumps([sha256, target.name, name, sidecar])
                digest = hashlib.sha256(whole.encode()).hexdigest()
                asked = Submission(idempotency_key, digest, sha256)
                there = submissions.once(asked, target, copy)
        except KeyTaken as taken:
            raise HTTPException(422, str(taken)) from taken
        except LedgerUnavailable:
            raise
        except OSError as error:
            told = f"inbox {target.name}: {error.strerror or error}"
            raise HTTPException(507, told) from error
        path = str(there.relative_to(target.path))
        return Dropped(inbox=target.name, path=path, warnings=warnings)

    return calls


def _inbox(app: "App", name: str | None) -> Inbox:
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
