"""Errors of the API as problem details (RFC 9457)."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from daemon.dispatch.control import Refused
from daemon.jobs.database import QueueUnavailable

TYPE = "application/problem+json"


class Problem(BaseModel):
    """What an error tells: `detail` is a sentence for a person."""

    title: str
    status: int
    detail: str


DOCUMENTED: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "It could not be done; `detail` says why.",
        "content": {TYPE: {"schema": Problem.model_json_schema()}},
    }
}
"""For OpenAPI: every call may answer with a problem."""


def problem(error: HTTPException) -> JSONResponse:
    """The answer that tells an error."""
    title = HTTPStatus(error.status_code).phrase
    told = Problem(title=title, status=error.status_code, detail=str(error.detail))
    return JSONResponse(
        told.model_dump(), error.status_code, headers=error.headers, media_type=TYPE
    )


def tell_problems(api: FastAPI) -> None:
    """Have every error of the API told as a problem."""

    @api.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error.__cause__, OSError) and error.status_code == 400:
            why = error.__cause__.strerror or error.__cause__  # FastAPI takes it for the sender's
            return problem(HTTPException(507, f"no room for the upload: {why}"))
        return problem(error)

    @api.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        said = "; ".join(f"{_place(each['loc'])}: {each['msg']}" for each in error.errors())
        return problem(HTTPException(422, said))

    @api.exception_handler(Refused)
    async def _refused(_: Request, error: Refused) -> JSONResponse:
        return problem(HTTPException(409, str(error)))

    @api.exception_handler(QueueUnavailable)
    async def _unavailable(_: Request, error: QueueUnavailable) -> JSONResponse:
        return problem(HTTPException(503, str(error)))


def _place(path: tuple[str | int, ...]) -> str:
    """Where in the request: "query limit", "body prompt"."""
    return " ".join(str(step) for step in path)
