"""Submitting over http: an upload is a drop into an inbox, nothing more; so is a picture again."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, File, Form, Header, HTTPException, UploadFile
from pydantic import BaseModel

from daemon.config.settings import Inbox
from daemon.dispatch.control import Refused
from daemon.fs.fingerprint import FileState
from daemon.fs.safe_path import open_beneath
from daemon.intake.idempotency import Announce, IdempotencyKeys, IdempotentRequest, KeyTaken
from daemon.intake.intake import checker
from daemon.intake.scanner import is_ignored
from daemon.intake.submit import (
    InvalidFileName,
    OverrideFile,
    copy_in,
    make_override,
    picture_name,
    write_override,
)
from daemon.jobs.database import QueueUnavailable
from daemon.publish.originals import PictureMissing, open_below, open_original
from daemon.services import Services
from daemon.web.actions import Actions
from daemon.web.jobs import Number, find


class Dropped(BaseModel):
    """Where a picture was dropped; its jobs, once it was looked at: `/api/jobs?inbox=&path=`."""

    inbox: str
    path: str
    warnings: list[str]


class Again(BaseModel):
    """Settings of the clip, as in a rule's `[make]`; without any, the rules say."""

    make: dict[str, Any] = {}


Key = Annotated[str | None, Header(min_length=1, max_length=200)]


class Uploads:
    """Puts pictures into inboxes for the calls below."""

    def __init__(self, services: Services, wake_watchers: Callable[[], None]) -> None:
        self._services = services
        self._wake_watchers = wake_watchers
        self._check = checker(services.family)
        self._submissions = IdempotencyKeys(services.database, services.queries)

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
        if why := self._services.storage_health.blocked.get(inbox.name):
            raise HTTPException(507, why)

        def copy(announce: Announce) -> str:
            with open_beneath(inbox.path, place.parent) as entered:
                there = copy_in(
                    content,
                    place.name,
                    entered,
                    sidecar,
                    lambda path: announce(str(place.parent / path.name)),
                )
            return str(place.parent / there.name)

        sha256 = None if key is None else _sha256(content)
        path = self._once(copy, (place, inbox, sidecar, sha256), key)
        return Dropped(inbox=inbox.name, path=path, warnings=warnings)

    def take(
        self, place: PurePosixPath, inbox: Inbox, make: dict[str, Any], key: str | None
    ) -> Dropped:
        """Have a picture that lies in an inbox looked at now, with these settings.

        It is no other drop than it was: only until it is taken can anything be said of it.
        """
        sidecar, warnings = self._beside(make)

        def lay(announce: Announce) -> str:
            with self._services.enqueue_lock, _opened(inbox, place) as file:
                fingerprint = FileState.of(os.fstat(file.fileno())).fingerprint(
                    self._services.owner
                )
                if not self._services.store.without_job(inbox.name, {str(place): fingerprint}):
                    job = self._services.queries.by_path(inbox.name, str(place), limit=1)[0].id
                    raise Refused(f"it is job {job} already; ask for it again by its number")
                if sidecar is not None:
                    with open_beneath(inbox.path, place.parent) as folder:
                        if not write_override(folder / place.name, sidecar):
                            raise Refused(f"another sidecar lies beside {str(place)!r} already")
                announce(str(place))
            return str(place)

        sha256 = None if key is None else self._content(inbox, place)
        self._once(lay, (place, inbox, sidecar, sha256), key)
        self._wake_watchers()
        return Dropped(inbox=inbox.name, path=str(place), warnings=warnings)

    def _content(self, inbox: Inbox, place: PurePosixPath) -> str:
        """The sha256 of the picture there, or of the one that was taken from there last."""
        try:
            with _opened(inbox, place) as file:
                return _sha256(file)
        except HTTPException:
            if taken := self._services.queries.by_path(inbox.name, str(place), limit=1):
                return taken[0].sha256
            raise

    def _once(
        self,
        drop: Callable[[Announce], str],
        asked: tuple[PurePosixPath, Inbox, OverrideFile | None, str | None],
        key: str | None,
    ) -> str:
        """Do it, once for each key. `asked`: where, with which sidecar, the content's sha256."""
        place, inbox, sidecar, sha256 = asked
        try:
            if key is None or sha256 is None:
                return drop(lambda _: None)
            whole = json.dumps([sha256, inbox.name, str(place), sidecar])
            digest = hashlib.sha256(whole.encode()).hexdigest()
            return self._submissions.once(IdempotentRequest(key, digest, sha256), inbox, drop)
        except KeyTaken as taken:
            raise HTTPException(422, str(taken)) from taken
        except QueueUnavailable:
            raise
        except OSError as error:
            told = f"inbox {inbox.name}: {error.strerror or error}"
            raise HTTPException(507, told) from error

    def _beside(self, make: dict[str, Any]) -> tuple[OverrideFile | None, list[str]]:
        """The sidecar that says it, and warnings."""
        if not make:
            return None, []
        sidecar, _, mistakes = make_override(make, self._check)
        fatal = [str(mistake) for mistake in mistakes if mistake.fatal]
        if fatal:
            raise HTTPException(422, "; ".join(fatal))
        return sidecar, [str(mistake) for mistake in mistakes]


def submit(services: Services, actions: Actions) -> APIRouter:
    """The calls."""
    calls = APIRouter(prefix="/api", tags=["jobs"])
    door = Uploads(services, actions.wake_watchers)

    @calls.post("/jobs", status_code=202)
    def drop(
        picture: Annotated[UploadFile | None, File()] = None,
        path: Annotated[str | None, Form(description="of a picture in the inbox")] = None,
        inbox: Annotated[str | None, Form(description="default: the first")] = None,
        make: Annotated[str, Form(description="settings of the clip as JSON")] = "",
        idempotency_key: Key = None,
    ) -> Dropped:
        """Drop a picture into an inbox, or have one looked at that lies there by its `path`.

        The same key twice is one drop.
        """
        target = inbox_of(services, inbox)
        if path is not None and picture is None:
            place = _place(path)
            return door.take(place, target, _settings(make), idempotency_key)
        if picture is None or path is not None:
            raise HTTPException(422, "say either picture or path")
        name = _name(picture.filename or "")
        if (picture.size or 0) > services.settings.http.max_upload:
            raise HTTPException(413, f"{name} has over {services.settings.http.max_upload:,} bytes")
        return door.put(picture.file, PurePosixPath(name), target, _settings(make), idempotency_key)

    @calls.post("/jobs/{job}/again", status_code=202)
    def again(number: Number, wanted: Again, idempotency_key: Key = None) -> Dropped:
        """Drop a job's picture into its inbox once more: a copy, the original stays."""
        job = find(services, number)
        try:
            content = open_original(services.settings, job)
        except PictureMissing as gone:
            raise Refused(str(gone)) from gone
        with content:
            target = inbox_of(services, job.inbox)
            return door.put(content, PurePosixPath(job.path), target, wanted.make, idempotency_key)

    return calls


def _opened(inbox: Inbox, place: PurePosixPath) -> BinaryIO:
    """A picture in an inbox, through no link. Raises HTTPException 404."""
    try:
        return os.fdopen(open_below(inbox.path, inbox.path / place), "rb")
    except (OSError, ValueError) as error:
        raise HTTPException(404, f"there is no picture {str(place)!r} in the inbox") from error


def _name(name: str) -> str:
    try:
        return picture_name(name)
    except InvalidFileName as refusal:
        raise HTTPException(422, str(refusal)) from refusal


def _place(path: str) -> PurePosixPath:
    """A path in an inbox that the watcher would look at."""
    place = PurePosixPath(path)
    _name(place.name)
    if place.is_absolute() or any(part == ".." or is_ignored(part) for part in place.parts):
        raise HTTPException(422, f"{path!r} is no place in an inbox")
    return place


def _settings(make: str) -> dict[str, Any]:
    try:
        settings = json.loads(make or "{}")
    except (ValueError, RecursionError) as error:
        raise HTTPException(422, f"make: not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise HTTPException(422, 'make: must be an object, such as {"prompt": "zoom in"}')
    return settings


def inbox_of(services: Services, name: str | None) -> Inbox:
    """The inbox of that name, or the first. Raises HTTPException 422."""
    inbox = services.settings.inbox[0] if name is None else services.settings.inbox_named(name)
    if inbox is None:
        known = ", ".join(each.name for each in services.settings.inbox)
        raise HTTPException(422, f"there is no inbox {name!r}; known: {known}")
    return inbox


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while part := file.read(1 << 20):
        digest.update(part)
    file.seek(0)
    return digest.hexdigest()
