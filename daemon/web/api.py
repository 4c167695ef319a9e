"""Composition of the ASGI application: routers, error handlers and middleware."""

from fastapi import FastAPI

from daemon.status import Status
from daemon.web import (
    clips,
    events,
    health,
    hosts,
    jobs,
    meta,
    rules,
    skipped,
    static,
    status,
    submit,
)
from daemon.web.actions import Actions
from daemon.web.errors import ERROR_RESPONSES, add_error_handlers
from daemon.web.forwarded_prefix import ForwardedPrefix
from daemon.web.head import HeadRequests
from daemon.web.lingering import LingeringClose
from daemon.web.middleware import FORM_OVERHEAD_BYTES, RequestGuard
from daemon.web.origin import KnownHosts
from daemon.web.sse import Streams
from daemon.web.upload_gate import UploadGate


def create_api(daemon_status: Status, actions: Actions, token: str | None) -> FastAPI:
    """Create the application for one daemon; requests must present `token` if it is not None."""
    api = FastAPI(
        title="i2vd",
        version="1",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # behind a proxy the address of the redirect would be wrong
        responses=ERROR_RESPONSES,
    )
    services = daemon_status.services
    settings = services.settings
    max_body = settings.http.max_upload + FORM_OVERHEAD_BYTES
    api.add_middleware(ForwardedPrefix)
    api.add_middleware(HeadRequests)
    api.add_middleware(
        RequestGuard,
        hosts=KnownHosts(settings.http),
        token=token,
        uploads=UploadGate(
            settings.state,
            min_free=settings.min_free,
            max_bytes=max_body,
            max_uploads=settings.http.max_uploads,
        ),
        max_upload_bytes=max_body,
    )
    api.add_middleware(LingeringClose)  # the last one added is the first one that a request meets
    add_error_handlers(api)
    streams = Streams(lambda: daemon_status.stopping)
    for router in (
        static.create_router(),
        health.create_router(daemon_status),
        status.create_router(daemon_status, streams),
        events.create_router(services, streams),
        skipped.create_router(daemon_status),
        meta.create_router(daemon_status),
        hosts.create_router(daemon_status.hosts),
        jobs.create_router(services),
        submit.create_router(services, actions),
        clips.create_router(daemon_status),
        rules.create_router(services, actions),
    ):
        api.include_router(router)
    return api
