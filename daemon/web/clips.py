"""Clips over http: the MP4, in parts as a player asks for them, its sidecar, a small picture.

Only what a job of ours published is served, from below its outbox and through no link. Originals
are not served at all: the small picture is drawn anew by the picture child.
"""

import asyncio
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from fastapi import APIRouter, HTTPException, Response
from fastapi.responses import FileResponse
from starlette.types import Receive, Scope, Send

from daemon.jobs.job import Job
from daemon.publish.originals import locate_picture, open_below
from daemon.publish.posters import read_poster
from daemon.publish.previews import read_preview
from daemon.services import Services
from daemon.status import Status
from daemon.web.jobs import Number, find
from pipeline.children.protocol import Rejected

_SMALL = 192
"""Pixels of the longer side of a small picture."""

_KEPT = {"cache-control": "private, max-age=3600"}
_KEPT_LONG = {"cache-control": "private, max-age=31536000, immutable"}


def clips(status: Status) -> APIRouter:
    """The calls."""
    services = status.services
    calls = APIRouter(prefix="/api/jobs/{job}", tags=["clips"])

    @calls.get("/clip", response_class=FileResponse)
    def clip(number: Number) -> FileResponse:
        """The MP4."""
        job = find(services, number)
        return _published(services, job, str, "video/mp4")

    @calls.get("/sidecar", response_class=FileResponse)
    def sidecar(number: Number) -> FileResponse:
        """The clip's JSON sidecar."""
        job = find(services, number)
        return _published(services, job, lambda clip: f"{clip}.json", "application/json")

    @calls.get("/picture", response_class=Response)
    async def small(number: Number) -> Response:
        """The job's picture, small, drawn anew as a PNG."""
        job = await asyncio.to_thread(find, services, number)
        where = locate_picture(services.settings, job)
        if where is None or not job.sha256:
            raise HTTPException(404, f"the picture of job {number} is not to be had")
        path, within = where
        try:
            with tempfile.TemporaryDirectory(
                prefix="small-", dir=services.settings.state
            ) as folder:
                output = Path(folder) / "small.png"
                answer = await services.image_pool.thumbnail(
                    path, job.sha256, _small(job), output, within
                )
                if isinstance(answer, Rejected):
                    raise HTTPException(404, f"the picture of job {number}: {answer.reason}")
                return Response(output.read_bytes(), media_type="image/png", headers=_KEPT)
        except OSError as error:
            raise HTTPException(507, f"no room to draw it: {error.strerror or error}") from error

    @calls.get("/poster", response_class=Response)
    def poster(number: Number) -> Response:
        """The clip's first frame, small: a JPEG. Where `result.poster` says that there is one.

        Ask with the job's `finished` as a query: a browser keeps the answer for that address.
        """
        job = find(services, number)
        told = job.result is not None and job.result.get("poster")
        inbox = services.settings.inbox_named(job.inbox)
        content = read_poster(inbox, job) if told and inbox else None
        if content is None:
            raise HTTPException(404, f"there is no poster of job {number} here")
        return Response(content, media_type="image/jpeg", headers=_KEPT_LONG)

    @calls.get("/preview", response_class=Response)
    async def preview(number: Number) -> Response:
        """How a running clip looks so far: eight frames side by side, a JPEG."""
        content = _preview_here(status, number)
        if content is None:  # another host makes it, perhaps
            content = await asyncio.to_thread(_preview_elsewhere, services, number)
        if content is None:
            raise HTTPException(404, f"there is no preview of job {number}")
        return Response(content, media_type="image/jpeg")

    return calls


def _preview_here(status: Status, number: int) -> bytes | None:
    every = (hand for slot in status.slots for hand in slot.running if hand.job.id == number)
    return next((hand.preview for hand in every if hand.preview is not None), None)


def _preview_elsewhere(services: Services, number: int) -> bytes | None:
    job = find(services, number)
    inbox = services.settings.inbox_named(job.inbox)
    return read_preview(inbox, job) if job.state == "running" and inbox else None


def _small(job: Job) -> tuple[int, int]:
    """Width and height of a job's small picture, in the shape of the whole one."""
    width, height = job.source["width"], job.source["height"]
    share = _SMALL / max(width, height)
    return max(1, round(width * share)), max(1, round(height * share))


def _published(
    services: Services, job: Job, name: Callable[[str], str], media_type: str
) -> FileResponse:
    inbox = services.settings.inbox_named(job.inbox)
    if inbox is None or job.state != "done" or job.result is None:
        raise HTTPException(404, f"job {job.id} is {job.state} and has no clip")
    file = inbox.outbox / name(job.result["clip"])
    try:
        descriptor = open_below(inbox.outbox, file)
    except (OSError, ValueError) as error:
        raise HTTPException(404, f"{file} is not in the outbox any more") from error
    return _DescriptorResponse(descriptor, filename=file.name, media_type=media_type)


class _DescriptorResponse(FileResponse):
    """Serves a descriptor, and closes it: what its name stands for meanwhile does not matter."""

    def __init__(self, descriptor: int, *, filename: str, media_type: str) -> None:
        super().__init__(
            f"/proc/self/fd/{descriptor}",
            headers=_KEPT,
            media_type=media_type,
            filename=filename,
            stat_result=os.fstat(descriptor),
            content_disposition_type="inline",
        )
        self._descriptor = descriptor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, whole or in part."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            os.close(self._descriptor)
