"""HTTP: who is let in, and what is never let in."""

import json
from collections.abc import Iterator

import pytest

from daemon.web.static import FILES
from tests.system.conftest import quick_studio
from tests.system.studio import Studio, picture

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "10.0.0.1", ""])
def test_a_name_that_is_not_this_machine_is_refused(quick: Studio, host: str) -> None:
    answer = quick.request("GET", "/api/jobs", Host=host)
    assert answer.status_code == 400


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "localhost:7860"])
def test_the_names_of_this_machine_are_served(quick: Studio, host: str) -> None:
    assert quick.request("GET", "/api/jobs", Host=host).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1"])
def test_a_page_of_another_site_cannot_command(quick: Studio, origin: str) -> None:
    assert quick.request("POST", "/api/pause", Origin=origin).status_code == 403
    assert quick.get("/api/status")["paused"] is False


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_page_of_another_site_cannot_embed_ours(quick: Studio, site: str) -> None:
    fetched = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
    assert quick.request("GET", "/api/status", **fetched).status_code == 403
    followed = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
    assert quick.request("GET", "/api/status", **followed).status_code == 200


@pytest.mark.parametrize("path", ["/api/status", "/none", "/healthz"])
@pytest.mark.parametrize("host", ["localhost", "evil.example"])
def test_every_answer_tells_browsers_what_they_may_do(quick: Studio, path: str, host: str) -> None:
    headers = quick.request("GET", path, Host=host).headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers


def test_our_own_page_can(quick: Studio) -> None:
    own = f"http://127.0.0.1:{quick.port}"
    assert quick.request("POST", "/api/resume", Origin=own).status_code == 200


def test_health_and_metrics_answer(quick: Studio) -> None:
    assert quick.request("GET", "/healthz").text == "ok\n"
    assert quick.get("/readyz") == {"ready": True, "problems": []}
    assert quick.metric("i2vd_build_info") == 1
    assert quick.metric("i2vd_ready") == 1
    assert quick.metric("i2vd_inbox_available", inbox="inbox") == 1


# --- behind a proxy, which may rewrite the Host header

ALLOWED = ["Studio.LAN", "пример.рф", "my_host", "[FD00::7]", "fd00:0::8", "192.0.2.7"]
OWN = [
    "https://studio.lan", "http://studio.lan:8443", "http://STUDIO.lan.", "https://my_host",
    "https://xn--e1afmkfd.xn--p1ai", "https://[fd00::7]:7", "http://[fd00::8]", "http://192.0.2.7:81",
]  # fmt: skip
OTHER = [
    "https://evil.example", "https://studio.lan.evil.example", "https://evil.example/studio.lan",
    "https://studio.lan@evil.example", "null", "", "file://", "http://localhost:1", "studio.lan",
    "http://[fd00::9]", "http://192.0.2.70",
]  # fmt: skip


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A daemon on 127.0.0.1 that a proxy serves under other names."""
    studio = quick_studio(tmp_path_factory.mktemp("proxied"))
    studio.environment["I2VD_HTTP__ALLOWED_HOSTS"] = json.dumps(ALLOWED)
    yield studio.start()
    studio.close()


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost", "studio.lan", "[::1]:7860"])
@pytest.mark.parametrize("origin", OWN)
def test_a_page_at_an_allowed_name_is_ours(proxied: Studio, origin: str, host: str) -> None:
    for site in ("same-origin", "same-site"):
        sent = {"Host": host, "Origin": origin, "Sec-Fetch-Site": site}
        answer = proxied.request("POST", "/api/resume", **sent)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("origin", OTHER)
def test_a_page_at_another_name_is_not(proxied: Studio, origin: str) -> None:
    answer = proxied.request("POST", "/api/pause", Host="127.0.0.1:7860", Origin=origin)
    assert answer.status_code == 403
    assert proxied.get("/api/status")["paused"] is False


@pytest.mark.parametrize(
    ("host", "origin"),
    [("localhost:81", "http://localhost:81"), ("studio.lan:80", "http://studio.lan"),
     ("127.0.0.1", "http://127.0.0.1:80"), ("localhost", "https://localhost")],
)  # fmt: skip
def test_a_default_port_may_be_left_out(proxied: Studio, host: str, origin: str) -> None:
    assert proxied.request("POST", "/api/resume", Host=host, Origin=origin).status_code == 200


def test_a_refusal_says_what_did_not_agree_and_what_to_set(quick: Studio) -> None:
    sent = {"Host": "127.0.0.1:7860", "Origin": "https://studio.lan:8443"}
    told = quick.request("POST", "/api/pause", **sent).json()["detail"]
    for said in ("'https://studio.lan:8443'", "'127.0.0.1:7860'", "'studio.lan'"):
        assert said in told
    assert "http.allowed_hosts" in told
    told = quick.request("GET", "/", Host="studio.lan:8443").json()["detail"]
    assert "'studio.lan:8443'" in told
    assert "http.allowed_hosts" in told


@pytest.mark.parametrize("host", ["Studio.lan:1", "studio.lan.", "[fd00::7]:80", "[FD00:0:0::8]",
                                  "192.0.2.7", "my_host:7860"])  # fmt: skip
def test_an_allowed_name_is_known_however_it_is_spelt(proxied: Studio, host: str) -> None:
    assert proxied.request("GET", "/api/status", Host=host).status_code == 200


# --- HEAD


def readable(studio: Studio) -> list[str]:
    """Every path that GET reads, streams left out."""
    document = studio.get("/api/openapi.json")
    paths = [path for path, calls in document["paths"].items() if "get" in calls]
    job = studio.jobs("head.png")[0]["id"]
    found = [path.replace("{job}", str(job)) for path in paths]
    page = [f"/page/{file.name}" for file in FILES.iterdir()]
    none = ["/none", "/page/none", "/api/jobs/99999", "/api/jobs?limit=0"]
    streams = {"/api/live", "/api/events"}
    return [
        path for path in [*found, *page, *none, "/", "/api/openapi.json"] if path not in streams
    ]


def test_head_is_answered_wherever_get_is(quick: Studio) -> None:
    quick.drop("head.png", picture(9))
    quick.until_settled("head.png", "done")
    changes = {"/metrics", "/api/about", "/api/hosts", "/api/presets"}
    for path in readable(quick):
        got, asked = quick.request("GET", path), quick.request("HEAD", path)
        assert (asked.status_code, asked.content) == (got.status_code, b""), path
        varying = {"date", "content-length"} if path in changes else {"date"}
        same = [{k: v for k, v in answer.headers.items() if k not in varying}
                for answer in (got, asked)]  # fmt: skip
        assert same[0] == same[1], path
    assert quick.request("HEAD", "/healthz").headers["content-length"] == "3"


@pytest.mark.parametrize("path", ["/api/live", "/api/events"])
def test_a_stream_tells_its_headers_and_that_nobody_may_hold_it_back(
    quick: Studio, path: str
) -> None:
    for _ in range(40):  # more than there may be streams
        headers = quick.request("HEAD", path).headers
        assert headers["content-type"].startswith("text/event-stream")
        assert headers.get_list("cache-control") == ["no-store"]
        assert headers.get_list("x-accel-buffering") == ["no"]


def test_what_cannot_be_read_says_what_can_be_done(quick: Studio) -> None:
    assert quick.request("HEAD", "/api/pause").status_code == 405
    refused = quick.request("DELETE", "/api/status")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")


# --- under a path


@pytest.mark.parametrize("prefix", ["/i2vd", "/i2vd/", "/a/b-c", "/api", "/page"])
def test_the_description_names_the_prefix_of_a_proxy(quick: Studio, prefix: str) -> None:
    sent = {"X-Forwarded-Prefix": prefix}
    document = quick.request("GET", "/api/openapi.json", **sent).json()
    assert document["servers"] == [{"url": prefix.rstrip("/")}]
    assert "servers" not in quick.get("/api/openapi.json")
    for path in ("/", "/page/page.js", "/api/jobs", "/healthz"):
        assert quick.request("GET", path, **sent).status_code == 200


@pytest.mark.parametrize("prefix", ["https://evil.example", "//evil.example", "/a b", "i2vd", "/"])
def test_a_prefix_that_is_none_is_ignored(quick: Studio, prefix: str) -> None:
    answer = quick.request("GET", "/api/openapi.json", **{"X-Forwarded-Prefix": prefix})
    assert "servers" not in answer.json()


@pytest.mark.parametrize("path", ["/api/jobs/", "/api/status/", "/page"])
def test_no_answer_leads_elsewhere(quick: Studio, path: str) -> None:
    answer = quick.request("GET", path)
    assert (answer.status_code, "location" in answer.headers) == (404, False)
