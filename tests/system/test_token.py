"""HTTP that other machines reach: who shows the token is let in, nobody else."""

import sys
from collections.abc import Iterator

import httpx2
import pytest

from tests.system.browser import browser
from tests.system.conftest import Open
from tests.system.studio import Studio

pytestmark = pytest.mark.slow

TOKEN = "a-token-of-sufficient-length"


@pytest.fixture(scope="module")
def open_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A daemon that listens on every address."""
    studio = Studio(tmp_path_factory.mktemp("open") / "studio")
    studio.environment["I2VD_HTTP__LISTEN"] = f"0.0.0.0:{studio.port}"
    studio.environment["I2VD_HTTP__TOKEN_FILE"] = "token"
    studio.environment["I2VD_HTTP__ALLOWED_HOSTS"] = '["studio.lan"]'
    (studio.root / "token").write_text(TOKEN)
    studio.start(ready=False)
    studio.until(studio.is_alive, "the daemon answers")
    yield studio
    studio.close()


def paths(studio: Studio) -> list[tuple[str, str]]:
    """Every call of the API, as (method, path)."""
    document = studio.request("GET", "/api/openapi.json", Authorization=f"Bearer {TOKEN}").json()
    return [
        (method.upper(), path.replace("{job}", "1"))
        for path, calls in document["paths"].items()
        for method in calls
    ]


@pytest.mark.parametrize("shown", ["", "Bearer wrong", f"Bearer {TOKEN}x", "Basic eDp5"])
def test_without_the_token_only_health_answers(open_studio: Studio, shown: str) -> None:
    for method, path in [*paths(open_studio), ("GET", "/api/openapi.json"), ("GET", "/none")]:
        answer = open_studio.request(method, path, Authorization=shown)
        assert answer.status_code == (200 if path == "/healthz" else 401), path
        assert TOKEN not in answer.text
        if path != "/healthz":
            assert answer.headers["www-authenticate"].startswith("Basic ")
            assert answer.json()["detail"] == "the token is missing or wrong"


def test_a_large_upload_without_the_token_is_told_so(open_studio: Studio) -> None:
    url = f"http://127.0.0.1:{open_studio.port}/api/jobs"
    files = {"picture": ("cat.png", b"\0" * 1_000_000)}
    answer = httpx2.post(url, files=files, timeout=30, trust_env=False)
    assert (answer.status_code, answer.json()["status"]) == (401, 401)


@pytest.mark.parametrize("auth", [("", TOKEN), ("anna", TOKEN)])
def test_a_browser_shows_it_as_a_password(open_studio: Studio, auth: tuple[str, str]) -> None:
    url = f"http://127.0.0.1:{open_studio.port}/api/status"
    assert httpx2.get(url, auth=auth, trust_env=False).json()["paused"] is False


def test_the_page_opens_to_a_browser_that_knows_it(open_studio: Studio) -> None:
    place = f"127.0.0.1:{open_studio.port}"
    with browser(f"http://{place}") as page:
        page.driver.get(f"http://{place}/")
        assert page.value("document.querySelector('#nav, #main')") is None
        page.driver.get(f"http://anyone:{TOKEN}@{place}/page/icon.svg")
        page.open("make")
        page.until("document.querySelector('#status.idle')")
        page.turn_to("health")
        page.until_text("All is well")


def test_the_commands_show_it_by_themselves(open_studio: Studio) -> None:
    done = open_studio.command("pause")
    assert (done.returncode, done.stdout) == (0, "paused\n")
    assert open_studio.command("resume").returncode == 0
    refused = open_studio.command("pause", I2VD_HTTP__TOKEN_FILE="none")
    assert refused.returncode == 2
    assert "none: no such file; make one:" in refused.stderr


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1", 200), ("10.9.8.7:80", 200), ("[fe80::1]:7860", 200), ("STUDIO.lan:80", 200),
     ("evil.example", 400), ("studio.lan.evil.example", 400), ("1.2.3.4.evil.example", 400)],
)  # fmt: skip
def test_it_answers_to_its_addresses_and_names(open_studio: Studio, host: str, status: int) -> None:
    answer = open_studio.request("GET", "/api/status", Host=host, Authorization=f"Bearer {TOKEN}")
    assert answer.status_code == status


def test_it_says_at_the_start_and_on_check_that_it_is_open(open_studio: Studio) -> None:
    assert "other machines reach it" in open_studio.log_file.read_text()
    assert "a token is demanded; other machines reach it" in open_studio.command("check").stdout


def test_a_token_that_is_no_token_keeps_it_from_starting(studio_in: Open) -> None:
    studio = studio_in(I2VD_HTTP__TOKEN_FILE="token")
    (studio.root / "token").write_text("short")
    assert studio.start(ready=False).wait() == 2
    assert "not one word of 16 characters or more" in studio.log_file.read_text()


_PASSING_A_SOCKET = """
import os, socket, sys
passed = socket.create_server(("0.0.0.0", 0))
os.dup2(passed.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_a_socket_that_others_reach_is_refused_without_a_token(studio_in: Open) -> None:
    studio = studio_in(prefix=[sys.executable, "-c", _PASSING_A_SOCKET])
    assert studio.start(ready=False).wait() == 2
    assert "other machines reach the socket that was passed" in studio.log_file.read_text()
