"""Error responses of the API: problem details (RFC 9457)."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from daemon.dispatch.control import Refused
from daemon.jobs.database import QueueUnavailable
from daemon.jobs.job import UnreadableRow
from daemon.storage.folder_threads import FolderHangs

PROBLEM_MEDIA_TYPE = "application/problem+json"


class ProblemDetails(BaseModel):
    """Problem details (RFC 9457); `detail` is a sentence for a person."""

    title: str
    status: int
    detail: str


ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "The request failed; `detail` gives the reason.",
        "content": {PROBLEM_MEDIA_TYPE: {"schema": ProblemDetails.model_json_schema()}},
    }
}
"""For OpenAPI: any operation can answer with problem details."""


def problem_response(error: HTTPException) -> JSONResponse:
    """Return the response with the problem details of an error."""
    title = HTTPStatus(error.status_code).phrase
    details = ProblemDetails(title=title, status=error.status_code, detail=str(error.detail))
    return JSONResponse(
        details.model_dump(),
        error.status_code,
        headers=error.headers,
        media_type=PROBLEM_MEDIA_TYPE,
    )


def add_error_handlers(api: FastAPI) -> None:
    """Make every error of the API a problem-details response."""

    @api.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error.__cause__, OSError) and error.status_code == 400:
            # FastAPI blames the client if the upload cannot be stored.
            reason = error.__cause__.strerror or error.__cause__
            return problem_response(HTTPException(507, f"no room for the upload: {reason}"))
        return problem_response(error)

    @api.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        details = "; ".join(f"{_location(each['loc'])}: {_reason(each)}" for each in error.errors())
        return problem_response(HTTPException(422, details))

    @api.exception_handler(Refused)
    async def _refused(_: Request, error: Refused) -> JSONResponse:
        return problem_response(HTTPException(409, str(error)))

    @api.exception_handler(UnreadableRow)
    async def _unreadable(_: Request, error: UnreadableRow) -> JSONResponse:
        return problem_response(HTTPException(409, f"job {error.job}: {error}"))

    @api.exception_handler(FolderHangs)
    @api.exception_handler(QueueUnavailable)
    async def _unavailable(_: Request, error: OSError) -> JSONResponse:
        return problem_response(HTTPException(503, str(error)))


def _reason(error: Mapping[str, Any]) -> str:
    """Return pydantic's message, or i2vd's own for what a person may meet."""
    if error["type"] == "extra_forbidden":
        return "there is no such key"
    if "Expected UploadFile" in error["msg"]:
        return "is not a file; send it with a file name, as curl -F picture=@cat.jpg does"
    return str(error["msg"])


def _location(path: tuple[str | int, ...]) -> str:
    """Return the place in the request, such as "query limit" or "body prompt"."""
    return " ".join(str(step) for step in path)
