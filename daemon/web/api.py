"""The API and the page: their calls, how errors are told, and the guard before them."""

from fastapi import FastAPI

from daemon.config.address import is_loopback
from daemon.status import Status
from daemon.web.actions import Actions
from daemon.web.clips import clips
from daemon.web.errors import DOCUMENTED, tell_problems
from daemon.web.events import events
from daemon.web.health import health
from daemon.web.hosts import hosts
from daemon.web.jobs import jobs
from daemon.web.meta import about
from daemon.web.middleware import RequestGuard
from daemon.web.rules import rules
from daemon.web.sse import Streams
from daemon.web.static import page
from daemon.web.status import status
from daemon.web.submit import submit


def create_api(state: Status, actions: Actions, token: str | None) -> FastAPI:
    """The ASGI application over one daemon; a `token` is demanded where there is one."""
    api = FastAPI(
        title="i2vd",
        version="1",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        responses=DOCUMENTED,
    )
    services = state.services
    http = services.settings.http
    api.add_middleware(
        RequestGuard,
        names={"localhost", "127.0.0.1", "[::1]", http.host, *http.names},
        any_address=not is_loopback(http.host),
        token=token,
        max_upload=http.max_upload,
    )
    tell_problems(api)
    streams = Streams(lambda: state.stopping)
    for calls in (
        page(),
        health(state),
        status(state, streams),
        events(services, streams),
        about(state),
        hosts(state.hosts),
        jobs(services),
        submit(services, actions),
        clips(state),
        rules(services, actions),
    ):
        api.include_router(calls)
    return api
