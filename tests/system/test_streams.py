"""Server-sent events: described in OpenAPI, limited in number, and ended by the daemon's stop."""

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.system.conftest import Open
from tests.system.studio import Studio, picture

pytestmark = pytest.mark.slow

MOST = 32


@pytest.fixture
def studio(quick_in: Open) -> Studio:
    return quick_in().start()


@pytest.fixture
def http(studio: Studio) -> Iterator[httpx2.Client]:
    url = f"http://127.0.0.1:{studio.port}"
    limits = httpx2.Limits(max_connections=None)
    with httpx2.Client(base_url=url, timeout=30, trust_env=False, limits=limits) as client:
        yield client


def test_openapi_describes_the_events(quick: Studio) -> None:
    document = quick.get("/api/openapi.json")

    def described(path: str) -> dict[str, Any]:
        (content,) = document["paths"][path]["get"]["responses"]["200"]["content"].items()
        assert content[0] == "text/event-stream"
        item: dict[str, Any] = content[1]["itemSchema"]
        assert {"event", "id", "data"} <= item["properties"].keys()
        assert item["properties"]["data"]["contentMediaType"] == "application/json"
        schema: dict[str, Any] = item["properties"]["data"]["contentSchema"]
        return schema

    assert described("/api/events") == {"$ref": "#/components/schemas/Change"}
    change = document["components"]["schemas"]["Change"]
    assert {"number", "job", "from", "to", "event", "detail"} <= change["properties"].keys()
    assert described("/api/live")["anyOf"] == [
        {"$ref": "#/components/schemas/StatusResponse"},
        {"$ref": "#/components/schemas/UnavailableStatus"},
    ]


def test_a_stop_ends_open_streams(studio: Studio, http: httpx2.Client) -> None:
    with http.stream("GET", "/api/live") as live, http.stream("GET", "/api/events") as silent:
        news = iter(httpx2.EventSource(live))
        assert next(news).event == "status"
        began = time.monotonic()
        assert studio.stop() == 0
        assert time.monotonic() - began < 10
        assert list(httpx2.EventSource(silent)) == []  # ended as it should: no protocol error
        assert all(event.event == "status" for event in news)
    assert "Traceback" not in studio.log_file.read_text()


def test_a_stream_too_many_is_refused_until_another_ends(
    studio: Studio, http: httpx2.Client
) -> None:
    with contextlib.ExitStack() as streams:
        for path in ["/api/live", "/api/events"] * (MOST // 2):
            assert streams.enter_context(http.stream("GET", path)).status_code == 200
        refused = http.get("/api/events")
        assert refused.status_code == 503
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["detail"] == f"{MOST} listen already; ask /api/status instead"

    def opens() -> bool:
        with http.stream("GET", "/api/live") as answer:
            return answer.status_code == 200

    studio.until(opens, "there is a place again")
    assert "Traceback" not in studio.log_file.read_text()


def test_a_stream_outlives_a_queue_that_cannot_be_read(studio: Studio, http: httpx2.Client) -> None:
    studio.drop("cat.png", picture(1))
    studio.until_settled("cat.png", "done")
    with http.stream("GET", "/api/live") as live, http.stream("GET", "/api/events") as changes:
        news = iter(httpx2.EventSource(live))
        assert json.loads(next(news).data)["problems"] == []
        for file in (studio.root / ".i2vd").glob("queue*"):
            with file.open("r+b") as opened:
                opened.write(b"\xa5" * file.stat().st_size)
        told = next(event.data for event in news if json.loads(event.data)["problems"])
        assert "damaged" in told
        refused = http.get("/api/events")
        assert (refused.status_code, "damaged" in refused.json()["detail"]) == (503, True)
        assert studio.stop() == 0
        assert list(httpx2.EventSource(changes)) == []
