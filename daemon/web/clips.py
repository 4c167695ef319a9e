"""Files of a job: its clip (with range requests), sidecar, poster, preview and thumbnail.

Serves only what a job published, from below its outbox, without following symlinks. Source
pictures are never served: the image process decodes one and draws a thumbnail.
"""

import asyncio
import contextlib
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from fastapi import APIRouter, HTTPException, Response
from fastapi.responses import FileResponse
from starlette.responses import MalformedRangeHeader, RangeNotSatisfiable
from starlette.types import Receive, Scope, Send

from daemon.config.settings import Inbox
from daemon.jobs.job import Job
from daemon.publish.picture_location import locate_picture, open_below
from daemon.publish.posters import read_poster
from daemon.publish.previews import read_preview
from daemon.services import Services
from daemon.status import Status
from daemon.storage.folder_threads import FolderHangs
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
    async def get_clip(number: JobNumber) -> FileResponse:
        """Return the clip, an MP4; supports range requests."""
        job = await asyncio.to_thread(find_job, services, number)
        return await _published_file(services, job, str, "video/mp4")

    @router.get("/sidecar", response_class=FileResponse)
    async def get_sidecar(number: JobNumber) -> FileResponse:
        """Return the clip's sidecar (JSON)."""
        job = await asyncio.to_thread(find_job, services, number)
        return await _published_file(services, job, lambda clip: f"{clip}.json", "application/json")

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
    async def get_poster(number: JobNumber) -> Response:
        """Return the poster, a small JPEG of the first frame; exists if `result.poster` is true.

        Append the job's `finished` as a query: browsers cache the response under that address.
        """
        job = await asyncio.to_thread(find_job, services, number)
        has_poster = job.result is not None and job.result.get("poster")
        inbox, content = services.settings.inbox_named(job.inbox), None
        if has_poster and inbox:
            content = await services.folder_threads.run(inbox, read_poster, inbox, job)
        if content is None:
            raise HTTPException(404, f"there is no poster of job {number} here")
        return Response(content, media_type="image/jpeg", headers=_CACHE_IMMUTABLE)

    @router.get("/preview", response_class=Response)
    async def get_preview(number: JobNumber) -> Response:
        """Return the latest preview of a running job: eight frames side by side, a JPEG."""
        content = _local_preview(status, number)
        if content is None:  # another host may be running the job
            content = await _stored_preview(services, number)
        if content is None:
            raise HTTPException(404, f"there is no preview of job {number}")
        return Response(content, media_type="image/jpeg")

    return router


def _local_preview(status: Status, number: int) -> bytes | None:
    running = (job for slot in status.slots for job in slot.running if job.job.id == number)
    return next((job.preview for job in running if job.preview is not None), None)


async def _stored_preview(services: Services, number: int) -> bytes | None:
    job = await asyncio.to_thread(find_job, services, number)
    inbox = services.settings.inbox_named(job.inbox)
    if job.state != "running" or inbox is None:
        return None
    return await services.folder_threads.run(inbox, read_preview, inbox, job)


def _thumbnail_size(job: Job) -> tuple[int, int]:
    """Return width and height of a job's thumbnail; the aspect ratio is kept."""
    width, height = job.source["width"], job.source["height"]
    scale = _THUMBNAIL_PIXELS / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


async def _published_file(
    services: Services, job: Job, name: Callable[[str], str], media_type: str
) -> FileResponse:
    inbox = services.settings.inbox_named(job.inbox)
    if inbox is None or job.state != "done" or job.result is None or "clip" not in job.result:
        raise HTTPException(404, f"job {job.id} is {job.state} and has no clip")
    path = inbox.outbox / name(job.result["clip"])
    in_thread = partial(services.folder_threads.run, inbox)
    try:
        file, status = await services.folder_threads.run(inbox, _open_published, inbox, path)
    except FolderHangs:
        raise
    except (OSError, ValueError) as error:
        raise HTTPException(404, f"{path} is not in the outbox any more") from error
    return _PublishedResponse(
        file, in_thread, stat_result=status, filename=path.name, media_type=media_type
    )


def _open_published(inbox: Inbox, path: Path) -> tuple[BinaryIO, os.stat_result]:
    file = os.fdopen(open_below(inbox.outbox, path), "rb")
    return file, os.fstat(file.fileno())


class _PublishedResponse(FileResponse):
    """Response that sends an open file and closes it, whatever happens to the file's name.

    `in_thread` calls what reads: the share may hang meanwhile.
    """

    chunk_size = 256 * 1024

    def __init__(
        self,
        file: BinaryIO,
        in_thread: Callable[..., Awaitable[Any]],
        *,
        stat_result: os.stat_result,
        filename: str,
        media_type: str,
    ) -> None:
        super().__init__(
            filename,
            headers=_CACHE_HOUR,
            media_type=media_type,
            filename=filename,
            stat_result=stat_result,
            content_disposition_type="inline",
        )
        self._file = file
        self._in_thread = in_thread

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
        finally:  # to close a file may take as long as to read it
            threading.Thread(target=self._file.close, name="close clip", daemon=True).start()

    @contextlib.asynccontextmanager
    async def _open_file(self) -> AsyncIterator[Any]:
        yield self

    async def seek(self, position: int) -> None:
        """Move to a position in the file, for a range."""
        await self._in_thread(self._file.seek, position)

    async def read(self, size: int) -> bytes:
        """Read up to `size` bytes."""
        content: bytes = await self._in_thread(self._file.read, size)
        return content
