"""Static files of the page, read once at start-up.

Only these names are served. Browsers cache them but revalidate each time (ETag), so an upgrade
takes effect at once.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

from fastapi import APIRouter, HTTPException, Request, Response

FILES = Path(__file__).parent / "static"

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class _File(NamedTuple):
    content: bytes
    media_type: str
    etag: str


def create_router() -> APIRouter:
    """Create the router of the page, which is not part of the API's schema."""
    router = APIRouter(include_in_schema=False)
    files = {file.name: _read(file) for file in FILES.iterdir() if file.suffix in _TYPES}

    @router.get("/")
    async def get_index(request: Request) -> Response:
        return _respond(files["index.html"], request)

    @router.get("/page/{name}")
    async def get_file(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(404, f"the page has no file {name!r}")
        return _respond(files[name], request)

    return router


def _read(file: Path) -> _File:
    content = file.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return _File(content, _TYPES[file.suffix], etag)


def _respond(file: _File, request: Request) -> Response:
    headers = {"etag": file.etag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
