"""Files of a job: its clip (with range requests), sidecar, poster, preview and thumbnail.

Serves only what a job published, from below its outbox, without following symlinks. Source
pictures are never served: the image process decodes one and draws a thumbnail.
"""

import asyncio
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from fastapi import APIRouter, HTTPException, Response
from fastapi.responses import FileResponse
from starlette.responses import MalformedRangeHeader, RangeNotSatisfiable
from starlette.types import Receive, Scope, Send

from daemon.jobs.job import Job
from daemon.publish.picture_location import locate_picture, open_below
from daemon.publish.posters import read_poster
from daemon.publish.previews import read_preview
from daemon.services import Services
from daemon.status import Status
from daemon.web.jobs import JobNumber, find_job
from pipeline.children.protocol import Rejected, Unavailable

_THUMBNAIL_PIXELS = 192
"""Longer side of a thumbnail."""

_CACHE_HOUR = {"cache-control": "private, max-age=3600"}
_CACHE_IMMUTABLE = {"cache-control": "private, max-age=31536000, immutable"}


def create_router(status: Status) -> APIRouter:
    """Create the router of clips and their images."""
    services = status.services
    router = APIRouter(prefix="/api/jobs/{job}", tags=["clips"])

    @router.get("/clip", response_class=FileResponse)
    def get_clip(number: JobNumber) -> FileResponse:
        """Return the clip, an MP4; supports range requests."""
        job = find_job(services, number)
        return _published_file(services, job, str, "video/mp4")

    @router.get("/sidecar", response_class=FileResponse)
    def get_sidecar(number: JobNumber) -> FileResponse:
        """Return the clip's sidecar (JSON)."""
        job = find_job(services, number)
        return _published_file(services, job, lambda clip: f"{clip}.json", "application/json")

    @router.get("/picture", response_class=Response)
    async def get_thumbnail(number: JobNumber) -> Response:
        """Return a thumbnail of the job's picture, a PNG drawn by the image process."""
        job = await asyncio.to_thread(find_job, services, number)
        location = locate_picture(services.settings, job)
        if location is None or not job.sha256:
            raise HTTPException(404, f"the picture of job {number} is not to be had")
        path, within = location
        try:
            with tempfile.TemporaryDirectory(
                prefix="small-", dir=services.settings.state
            ) as folder:
                output = Path(folder) / "small.png"
                result = await services.image_pool.thumbnail(
                    path, job.sha256, _thumbnail_size(job), output, within
                )
                if isinstance(result, Unavailable):
                    raise HTTPException(503, f"the picture of job {number}: {result.reason}")
                if isinstance(result, Rejected):
                    raise HTTPException(404, f"the picture of job {number}: {result.reason}")
                return Response(output.read_bytes(), media_type="image/png", headers=_CACHE_HOUR)
        except OSError as error:
            raise HTTPException(507, f"no room to draw it: {error.strerror or error}") from error

    @router.get("/poster", response_class=Response)
    def get_poster(number: JobNumber) -> Response:
        """Return the poster, a small JPEG of the first frame; exists if `result.poster` is true.

        Append the job's `finished` as a query: browsers cache the response under that address.
        """
        job = find_job(services, number)
        has_poster = job.result is not None and job.result.get("poster")
        inbox = services.settings.inbox_named(job.inbox)
        content = read_poster(inbox, job) if has_poster and inbox else None
        if content is None:
            raise HTTPException(404, f"there is no poster of job {number} here")
        return Response(content, media_type="image/jpeg", headers=_CACHE_IMMUTABLE)

    @router.get("/preview", response_class=Response)
    async def get_preview(number: JobNumber) -> Response:
        """Return the latest preview of a running job: eight frames side by side, a JPEG."""
        content = _local_preview(status, number)
        if content is None:  # another host may be running the job
            content = await asyncio.to_thread(_stored_preview, services, number)
        if content is None:
            raise HTTPException(404, f"there is no preview of job {number}")
        return Response(content, media_type="image/jpeg")

    return router


def _local_preview(status: Status, number: int) -> bytes | None:
    running = (job for slot in status.slots for job in slot.running if job.job.id == number)
    return next((job.preview for job in running if job.preview is not None), None)


def _stored_preview(services: Services, number: int) -> bytes | None:
    job = find_job(services, number)
    inbox = services.settings.inbox_named(job.inbox)
    return read_preview(inbox, job) if job.state == "running" and inbox else None


def _thumbnail_size(job: Job) -> tuple[int, int]:
    """Return width and height of a job's thumbnail; the aspect ratio is kept."""
    width, height = job.source["width"], job.source["height"]
    scale = _THUMBNAIL_PIXELS / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _published_file(
    services: Services, job: Job, name: Callable[[str], str], media_type: str
) -> FileResponse:
    inbox = services.settings.inbox_named(job.inbox)
    if inbox is None or job.state != "done" or job.result is None or "clip" not in job.result:
        raise HTTPException(404, f"job {job.id} is {job.state} and has no clip")
    file = inbox.outbox / name(job.result["clip"])
    try:
        descriptor = open_below(inbox.outbox, file)
    except (OSError, ValueError) as error:
        raise HTTPException(404, f"{file} is not in the outbox any more") from error
    return _DescriptorResponse(descriptor, filename=file.name, media_type=media_type)


class _DescriptorResponse(FileResponse):
    """Response that sends an open descriptor and closes it, whatever happens to the file's name."""

    def __init__(self, descriptor: int, *, filename: str, media_type: str) -> None:
        super().__init__(
            f"/proc/self/fd/{descriptor}",
            headers=_CACHE_HOUR,
            media_type=media_type,
            filename=filename,
            stat_result=os.fstat(descriptor),
            content_disposition_type="inline",
        )
        self._descriptor = descriptor

    @classmethod
    def _parse_range_header(cls, http_range: str, file_size: int) -> list[tuple[int, int]]:
        """Return the ranges, as (begin, end); none, for the whole file, in an unknown unit.

        Raises HTTPException 400, 416: Starlette would answer in plain text.
        """
        if http_range.partition("=")[0].strip().lower() != "bytes":
            return []  # RFC 9110, 14.2: must be ignored
        try:
            return super()._parse_range_header(http_range, file_size)
        except MalformedRangeHeader as error:
            raise HTTPException(400, "the Range header is not valid") from error
        except RangeNotSatisfiable as error:
            headers = {"content-range": f"bytes */{file_size}"}
            reason = f"the Range header asks for more than the {file_size:,} bytes there are"
            raise HTTPException(416, reason, headers) from error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file or the requested ranges."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            os.close(self._descriptor)
