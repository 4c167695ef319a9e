"""Health checks and metrics, for service managers and Prometheus."""

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from daemon.status import Status


def create_router(status: Status) -> APIRouter:
    """Create the router of liveness, readiness and metrics."""
    router = APIRouter(tags=["health"])

    @router.get("/healthz", response_class=PlainTextResponse)
    async def get_liveness() -> str:
        """Liveness: answers while the event loop runs."""
        return "ok\n"

    @router.get("/readyz", responses={503: {"description": "Not ready; `problems` says why."}})
    def get_readiness() -> JSONResponse:
        """Readiness: status 200 if jobs are accepted and generated, else 503 with the problems."""
        problems = status.problems()
        return JSONResponse({"ready": not problems, "problems": problems}, 503 if problems else 200)

    @router.get("/metrics", response_class=PlainTextResponse)
    def get_metrics() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(
            generate_latest(status.services.metrics.registry), media_type=CONTENT_TYPE_LATEST
        )

    return router
