"""Composition of the ASGI application: routers, error handlers and middleware."""

from fastapi import FastAPI

from daemon.config.address import is_loopback
from daemon.status import Status
from daemon.web import (
    clips,
    events,
    health,
    hosts,
    jobs,
    meta,
    rules,
    static,
    status,
    submit,
)
from daemon.web.actions import Actions
from daemon.web.errors import ERROR_RESPONSES, add_error_handlers
from daemon.web.middleware import RequestGuard
from daemon.web.sse import Streams


def create_api(daemon_status: Status, actions: Actions, token: str | None) -> FastAPI:
    """Create the application for one daemon; requests must present `token` if it is not None."""
    api = FastAPI(
        title="i2vd",
        version="1",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        responses=ERROR_RESPONSES,
    )
    services = daemon_status.services
    http = services.settings.http
    api.add_middleware(
        RequestGuard,
        names={"localhost", "127.0.0.1", "[::1]", http.host, *http.allowed_hosts},
        any_address=not is_loopback(http.host),
        token=token,
        max_upload=http.max_upload,
    )
    add_error_handlers(api)
    streams = Streams(lambda: daemon_status.stopping)
    for router in (
        static.create_router(),
        health.create_router(daemon_status),
        status.create_router(daemon_status, streams),
        events.create_router(services, streams),
        meta.create_router(daemon_status),
        hosts.create_router(daemon_status.hosts),
        jobs.create_router(services),
        submit.create_router(services, actions),
        clips.create_router(daemon_status),
        rules.create_router(services, actions),
    ):
        api.include_router(router)
    return api
