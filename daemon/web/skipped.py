"""The skipped files of the inboxes: what is there and belongs to no job."""

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query
from pydantic import BaseModel

from daemon.intake.skipped import SkippedFile
from daemon.status import Status


class SkippedPage(BaseModel):
    """Skipped files, oldest first; `total` counts also those that are not listed."""

    total: int
    files: list[SkippedFile]


def create_router(status: Status) -> APIRouter:
    """Create the router of the skipped files."""
    router = APIRouter(prefix="/api", tags=["status"])

    @router.get("/skipped")
    def list_skipped_files(
        inbox: Annotated[str | None, Query(description="Name of an inbox; default: all.")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> SkippedPage:
        """List the files that were in an inbox for a minute and belong to no job, with reasons."""
        watchers = [each for each in status.watchers if inbox in (None, each.inbox.name)]
        if inbox is not None and not watchers:
            raise HTTPException(422, f"there is no inbox {inbox!r} that this host watches")
        files = [file for each in watchers for file in each.skipped.listed()]
        files.sort(key=lambda file: file.since)
        return SkippedPage(total=sum(each.skipped.total for each in watchers), files=files[:limit])

    return router
