"""The API: jobs, rules, pause; the health checks; the metrics.

Answers only to names of this machine (against DNS rebinding) and refuses posts from other sites.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from daemon import operate
from daemon.database import LedgerUnavailable
from daemon.job import Event, Job, State
from daemon.parts import Parts

if TYPE_CHECKING:
    from daemon.app import App

Operation = Callable[[Parts, int], Job]

LOCAL_NAMES = ["127.0.0.1", "localhost"]


class _SameSite:
    """Refuses requests that a page of another site makes in a browser."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            origin = headers.get(b"origin", b"").decode("latin-1")
            host = headers.get(b"host", b"").decode("latin-1")
            if origin and origin.partition("://")[2] != host:
                refusal = PlainTextResponse("cross-site request refused\n", 403)
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


def create_api(app: "App") -> FastAPI:
    """The ASGI application over one daemon. Handlers are plain functions: they run in threads."""
    api = FastAPI(
        title="i2vd", version="1", openapi_url="/api/openapi.json", docs_url=None, redoc_url=None
    )
    api.add_middleware(_SameSite)
    api.add_middleware(TrustedHostMiddleware, allowed_hosts=LOCAL_NAMES)
    api.add_exception_handler(LedgerUnavailable, _unavailable)
    _health(api, app)
    _jobs(api, app)
    _rules(api, app)
    return api


def _unavailable(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 503)


def _health(api: FastAPI, app: "App") -> None:
    @api.get("/healthz", response_class=PlainTextResponse)
    async def healthz() -> str:
        """The event loop turns."""
        return "ok\n"

    @api.get("/readyz")
    def readyz() -> JSONResponse:
        """Pictures are taken and clips can be made; else why not, with status 503."""
        problems = app.problems()
        return JSONResponse({"ready": not problems, "problems": problems}, 503 if problems else 200)

    @api.get("/metrics")
    def metrics() -> Response:
        """Prometheus' text format."""
        return Response(generate_latest(app.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @api.get("/api/status")
    def status() -> dict[str, Any]:
        """What the daemon is doing."""
        return {
            "paused": app.ledger.paused(),
            "problems": app.problems(),
            "jobs": app.history.counts(),
            "eta": app.until_done(),
            "slots": [
                {
                    "device": slot.device,
                    "job": slot.job.id if slot.job else None,
                    "path": slot.job.path if slot.job else None,
                    "progress": slot.told(),
                    "pid": slot.maker.pid,
                }
                for slot in app.slots
            ],
        }


def _jobs(api: FastAPI, app: "App") -> None:
    def found(job_id: int) -> Job:
        job = app.history.job(job_id)
        if job is None:
            raise HTTPException(404, f"there is no job {job_id}")
        return job

    def operated(operation: Operation, job_id: int) -> Job:
        try:
            return operation(app.parts, found(job_id).id)
        except operate.Refused as refusal:
            raise HTTPException(409, str(refusal)) from refusal

    @api.get("/api/jobs")
    def jobs(
        state: State | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
        before: int | None = None,
    ) -> list[Job]:
        """The newest jobs; `before` an id for the next page."""
        return app.history.newest(state, limit, before)

    @api.get("/api/jobs/{job_id}")
    def job(job_id: int) -> Job:
        """One job."""
        return found(job_id)

    @api.get("/api/jobs/{job_id}/events")
    def events(job_id: int) -> list[Event]:
        """What happened to a job."""
        return app.history.events(found(job_id).id)

    @api.post("/api/jobs/{job_id}/cancel")
    def cancel(job_id: int) -> Job:
        """A waiting job at once, a running one at its next step."""
        return operated(operate.cancel, job_id)

    @api.post("/api/jobs/{job_id}/retry")
    def retry(job_id: int) -> Job:
        """Put a failed or cancelled job into the queue, and its picture into the inbox."""
        return operated(operate.retry, job_id)

    @api.post("/api/pause")
    def pause() -> dict[str, bool]:
        """Claim nothing more; what runs goes on."""
        app.ledger.pause(True)
        return {"paused": True}

    @api.post("/api/resume")
    def resume() -> dict[str, bool]:
        """Claim again."""
        app.ledger.pause(False)
        return {"paused": False}


def _rules(api: FastAPI, app: "App") -> None:
    @api.get("/api/rules")
    def rules() -> dict[str, Any]:
        """The rules in force, in order, and how the last reload went."""
        return {
            name: {
                "digest": live.rules.digest,
                "rules": [rule.name for rule in live.rules.rules if rule.enabled],
                "ok": live.last.ok if live.last else False,
                "mistakes": [str(m) for m in live.last.mistakes] if live.last else [],
                "warnings": [str(m) for m in live.last.warnings] if live.last else [],
            }
            for name, live in app.rules.items()
        }

    @api.post("/api/rules/reload")
    async def reload() -> dict[str, Any]:
        """Read the rule files again; the last good set stays where something is wrong."""
        return {
            name: {"ok": result.ok, "mistakes": [str(m) for m in result.mistakes]}
            for name, result in app.reload_rules().items()
        }
