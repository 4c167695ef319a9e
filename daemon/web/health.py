"""Health and metrics: for systemd's friends and Prometheus."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from daemon.status import Status


def health(status: Status) -> APIRouter:
    """What tells whether the daemon lives, is ready, and how it does."""
    calls = APIRouter(tags=["health"])

    @calls.get("/healthz", response_class=PlainTextResponse)
    async def healthz() -> str:
        """The event loop turns."""
        return "ok\n"

    @calls.get("/readyz", responses={503: {"description": "Not ready; `problems` says why."}})
    def readyz() -> JSONResponse:
        """Pictures are taken and clips can be made; else why not, with status 503."""
        problems = status.problems()
        return JSONResponse({"ready": not problems, "problems": problems}, 503 if problems else 200)

    @calls.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> Response:
        """Prometheus' text format."""
        return Response(
            generate_latest(status.services.metrics.registry), media_type=CONTENT_TYPE_LATEST
        )

    return calls
