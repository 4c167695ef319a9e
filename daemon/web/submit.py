"""Submit pictures: an upload is written into an inbox, and the watcher takes it from there."""

import asyncio
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Depends, File, Form, Header, HTTPException, UploadFile
from pydantic import BaseModel, Field

from daemon.config.settings import Inbox
from daemon.dispatch.control import Refused
from daemon.fs.fingerprint import FileState
from daemon.fs.safe_path import open_beneath
from daemon.intake.idempotency import Announce, IdempotencyKeys, IdempotentRequest, KeyTaken
from daemon.intake.intake import checker
from daemon.intake.junk import is_ignored
from daemon.intake.submit import (
    InvalidFileName,
    OverrideFile,
    copy_in,
    make_override,
    picture_name,
    read_head,
    write_override,
)
from daemon.jobs.database import QueueUnavailable
from daemon.jobs.job import Job
from daemon.publish.picture_location import PictureMissing, open_below, open_original
from daemon.services import Services
from daemon.web.actions import Actions
from daemon.web.jobs import JobNumber, find_job
from daemon.web.request_body import RequestBody
from daemon.web.upload_form import check_fields
from daemon.web.upload_gate import require_space
from pipeline.children.picture_file import MAX_FILE_BYTES, picture_digest
from rules.characters import quoted


class SubmitResult(BaseModel):
    """Path of a picture in an inbox; find its jobs later with `/api/jobs?inbox=&path=`."""

    inbox: str
    path: str
    warnings: list[str]


class ResubmitRequest(RequestBody):
    """Settings of the clip, as in a rule's `[make]`; if empty, the rules decide."""

    make: dict[str, Any] = Field(default_factory=dict)


IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=200)]


class Uploads:
    """Submissions of pictures into the inboxes; all are called in a thread of the inbox."""

    def __init__(self, services: Services, wake_watchers: Callable[[], None]) -> None:
        self._services = services
        self._wake_watchers = wake_watchers
        self._check = checker(services.family)
        self._idempotency_keys = IdempotencyKeys(services.database, services.queries)

    def put(
        self,
        content: BinaryIO,
        path: PurePosixPath,
        inbox: Inbox,
        make: dict[str, Any],
        key: str | None,
    ) -> SubmitResult:
        """Copy a picture to a path in an inbox, or to a similar free one; once for each key."""
        override, warnings = self._override(make, inbox)
        if reason := self._services.storage_health.blocked.get(inbox.name):
            raise HTTPException(507, reason)
        size = content.seek(0, os.SEEK_END)
        content.seek(0)
        require_space(inbox.path, size, self._services.settings.min_free)

        def copy(announce: Announce) -> str:
            with open_beneath(inbox.path, path.parent) as folder:
                copied = copy_in(
                    content,
                    path.name,
                    folder,
                    override,
                    lambda target: announce(str(path.parent / target.name)),
                )
            return str(path.parent / copied.name)

        sha256 = None if key is None else _sha256(content)
        copied_to = self._once(copy, (path, inbox, override, sha256), key)
        return self._result(inbox, copied_to, warnings)

    def resubmit(
        self, job: Job, inbox: Inbox, make: dict[str, Any], key: str | None
    ) -> SubmitResult:
        """Copy a job's picture into its inbox again. Raises Refused if it is gone."""
        try:
            content = open_original(self._services.settings, job)
        except PictureMissing as error:
            raise Refused(str(error)) from error
        with content:
            return self.put(content, PurePosixPath(job.path), inbox, make, key)

    def submit_existing(
        self, path: PurePosixPath, inbox: Inbox, make: dict[str, Any], key: str | None
    ) -> SubmitResult:
        """Set the settings of a picture that is already in an inbox, and wake the watcher.

        Raises Refused if the picture already has a job or another override file.
        """
        override, warnings = self._override(make, inbox)

        def override_existing(announce: Announce) -> str:
            lock = self._services.enqueue_locks[inbox.name]
            with lock, _open_picture(inbox, path) as file:
                fingerprint = FileState.of(os.fstat(file.fileno())).fingerprint
                if not self._services.store.without_job(inbox.name, {str(path): fingerprint}):
                    jobs = self._services.queries.by_path(inbox.name, str(path), limit=1)
                    if not jobs:
                        raise Refused("it is a job already, whose row cannot be read")
                    raise Refused(f"it is job {jobs[0].id} already; ask for it again by its number")
                if override is not None:
                    with open_beneath(inbox.path, path.parent) as folder:
                        if not write_override(folder / path.name, override):
                            raise Refused(
                                f"another sidecar lies beside {quoted(str(path))} already"
                            )
                announce(str(path))
            return str(path)

        sha256 = None if key is None else self._content_sha256(inbox, path)
        self._once(override_existing, (path, inbox, override, sha256), key)
        self._wake_watchers()
        return self._result(inbox, str(path), warnings)

    def _result(self, inbox: Inbox, path: str, warnings: list[str]) -> SubmitResult:
        rules = self._services.rules[inbox.name].rules
        unmatched = rules.warn_unmatched(PurePosixPath(path))
        return SubmitResult(inbox=inbox.name, path=path, warnings=[*warnings, *unmatched])

    def _content_sha256(self, inbox: Inbox, path: PurePosixPath) -> str:
        """Return the SHA-256 of the picture at `path`, or of the last one submitted from there."""
        try:
            file = _open_picture(inbox, path)
        except HTTPException:
            if jobs := self._services.queries.by_path(inbox.name, str(path), limit=1):
                return jobs[0].sha256
            raise
        with file:
            sha256 = picture_digest(file)
        if sha256 is None:
            raise HTTPException(413, f"{quoted(str(path))} has over {MAX_FILE_BYTES:,} bytes")
        return sha256

    def _once(
        self,
        submit: Callable[[Announce], str],
        request: tuple[PurePosixPath, Inbox, OverrideFile | None, str | None],
        key: str | None,
    ) -> str:
        """Call `submit` once for each key. `request`: path, inbox, override file, SHA-256."""
        path, inbox, override, sha256 = request
        try:
            if key is None or sha256 is None:
                return submit(lambda _: None)
            canonical = json.dumps([sha256, inbox.name, str(path), override])
            digest = hashlib.sha256(canonical.encode()).hexdigest()
            return self._idempotency_keys.drop_once(
                IdempotentRequest(key, digest, sha256), inbox, submit
            )
        except KeyTaken as error:
            raise HTTPException(422, str(error)) from error
        except QueueUnavailable:
            raise
        except OSError as error:
            detail = f"inbox {inbox.name}: {error.strerror or error}"
            raise HTTPException(507, detail) from error

    def _override(
        self, make: dict[str, Any], inbox: Inbox
    ) -> tuple[OverrideFile | None, list[str]]:
        """Return the override file of these settings, and warnings. Raises HTTPException 422."""
        if not make:
            return None, []
        override, _, mistakes = make_override(make, self._check, inbox.overrides)
        fatal = [str(mistake) for mistake in mistakes if mistake.fatal]
        if fatal:
            raise HTTPException(422, "; ".join(fatal))
        return override, [str(mistake) for mistake in mistakes]


def create_router(services: Services, actions: Actions) -> APIRouter:
    """Create the router of submissions."""
    router = APIRouter(prefix="/api", tags=["jobs"])
    uploads = Uploads(services, actions.wake_watchers)

    run = services.folder_threads.run

    @router.post("/jobs", status_code=202, dependencies=[Depends(check_fields)])
    async def submit_picture(
        picture: Annotated[UploadFile | None, File()] = None,
        path: Annotated[str | None, Form(description="of a picture in the inbox")] = None,
        inbox: Annotated[str | None, Form(description="default: the first")] = None,
        make: Annotated[str, Form(description="settings of the clip as JSON")] = "",
        idempotency_key: IdempotencyKey = None,
    ) -> SubmitResult:
        """Upload a picture into an inbox, or submit one that is already there by its `path`.

        A repeated `Idempotency-Key` submits nothing again.
        """
        target = find_inbox(services, inbox)
        if path is not None and picture is None:
            place, settings = _parse_path(path), _parse_settings(make)
            return await run(
                target, uploads.submit_existing, place, target, settings, idempotency_key
            )
        if picture is None or path is not None:
            raise HTTPException(422, "say either picture or path")
        head = await asyncio.to_thread(read_head, picture.file)
        name = _valid_name(picture.filename or "", head)
        if (picture.size or 0) > services.settings.http.max_upload:
            raise HTTPException(413, f"{name} has over {services.settings.http.max_upload:,} bytes")
        settings, place = _parse_settings(make), PurePosixPath(name)
        return await run(
            target, uploads.put, picture.file, place, target, settings, idempotency_key
        )

    @router.post("/jobs/{job}/again", status_code=202)
    async def resubmit_picture(
        number: JobNumber, body: ResubmitRequest, idempotency_key: IdempotencyKey = None
    ) -> SubmitResult:
        """Copy a job's picture into its inbox again; the original stays."""
        job = await asyncio.to_thread(find_job, services, number)
        target = find_inbox(services, job.inbox)
        return await run(target, uploads.resubmit, job, target, body.make, idempotency_key)

    return router


def _open_picture(inbox: Inbox, path: PurePosixPath) -> BinaryIO:
    """Open a picture in an inbox without following symlinks. Raises HTTPException 404."""
    try:
        return os.fdopen(open_below(inbox.path, inbox.path / path), "rb")
    except (OSError, ValueError) as error:
        raise HTTPException(404, f"there is no picture {quoted(str(path))} in the inbox") from error


def _valid_name(name: str, head: bytes = b"") -> str:
    try:
        return picture_name(name, head)
    except InvalidFileName as error:
        raise HTTPException(422, str(error)) from error


def _parse_path(text: str) -> PurePosixPath:
    """Return a path in an inbox that the watcher would not ignore. Raises HTTPException 422."""
    path = PurePosixPath(text)
    _valid_name(path.name)
    if path.is_absolute() or any(part == ".." or is_ignored(part) for part in path.parts):
        raise HTTPException(422, f"{quoted(text)} is no place in an inbox")
    return path


def _parse_settings(make: str) -> dict[str, Any]:
    try:
        settings = json.loads(make or "{}")
    except (ValueError, RecursionError) as error:
        raise HTTPException(422, f"make: not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise HTTPException(422, 'make: must be an object, such as {"prompt": "zoom in"}')
    return settings


def find_inbox(services: Services, name: str | None) -> Inbox:
    """Return the inbox of this name, or the first. Raises HTTPException 422."""
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
