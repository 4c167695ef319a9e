"""HTTP: who is let in, and what is never let in."""

import pytest

from tests.system.studio import Studio

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
