"""The page: a few files of the package, read once, served as they are.

Nothing else can be asked for: a name is looked up among those that were read. A browser keeps what
it has and asks each time whether that still holds, so that an upgrade shows at once.
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


def page() -> APIRouter:
    """The calls; a browser's, so they stand in no description of the API."""
    calls = APIRouter(include_in_schema=False)
    files = {file.name: _read(file) for file in FILES.iterdir() if file.suffix in _TYPES}

    @calls.get("/")
    async def index(request: Request) -> Response:
        return _answer(files["index.html"], request)

    @calls.get("/page/{name}")
    async def part(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(404, f"the page has no file {name!r}")
        return _answer(files[name], request)

    return calls


def _read(file: Path) -> _File:
    content = file.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return _File(content, _TYPES[file.suffix], etag)


def _answer(file: _File, request: Request) -> Response:
    headers = {"etag": file.etag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
