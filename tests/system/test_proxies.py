"""Reverse proxies: each example of the documentation, with the real server before the daemon."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from daemon.cli.sandbox import free_port
from tests.system.browser import browser
from tests.system.conftest import quick_studio
from tests.system.needs import needs
from tests.system.studio import ROOT, Studio, picture

pytestmark = pytest.mark.slow

NAME = "studio.lan"
PAGE = (ROOT / "daemon/web/README.md").read_text(encoding="utf-8")
NGINX = """\
daemon off;
pid {root}/nginx.pid;
error_log {root}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
{example}
}}
"""
APACHE = """\
ServerRoot {root}
ServerName localhost
PidFile {root}/apache.pid
DefaultRuntimeDir {root}
ErrorLog {root}/error.log
Listen 127.0.0.1:{port}
{modules}
{example}
"""
MODULES = (
    "mpm_event", "authz_core", "alias", "headers", "proxy", "proxy_http",
)  # fmt: skip


def example(language: str) -> str:
    """Return the only example of a server in the documentation."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def with_ports(text: str, port: int, daemon_port: int) -> str:
    """Return an example with the test's ports; nothing else of it is changed."""
    changed = text.replace(":7860", f":{daemon_port}")
    changed = changed.replace("listen 80;", f"listen 127.0.0.1:{port};")
    changed = changed.replace("*:80>", f"127.0.0.1:{port}>")
    changed = changed.replace(f"http://{NAME} {{", f"http://{NAME}:{port} {{")
    assert changed.count(str(port)) == 1
    return changed


def nginx(root: Path, port: int, daemon_port: int) -> list[str]:
    program = needs("nginx", package="nginx-light")
    text = with_ports(example("nginx"), port, daemon_port)
    (root / "nginx.conf").write_text(NGINX.format(root=root, example=text))
    return [program, "-p", str(root), "-c", str(root / "nginx.conf")]


def caddy(root: Path, port: int, daemon_port: int) -> list[str]:
    program = needs("caddy", package="caddy")
    text = "{\nadmin off\nauto_https off\n}\n" + with_ports(example("caddy"), port, daemon_port)
    (root / "Caddyfile").write_text(text)
    return [program, "run", "--adapter", "caddyfile", "--config", str(root / "Caddyfile")]


def apache(root: Path, port: int, daemon_port: int) -> list[str]:
    program = needs("apache2", package="apache2")
    folder = "/usr/lib/apache2/modules"
    modules = "\n".join(f"LoadModule {m}_module {folder}/mod_{m}.so" for m in MODULES)
    text = with_ports(example("apache"), port, daemon_port)
    (root / "apache.conf").write_text(
        APACHE.format(root=root, port=port, modules=modules, example=text)
    )
    return [program, "-f", str(root / "apache.conf"), "-X"]


class Proxy:
    """A running proxy before a daemon."""

    def __init__(self, studio: Studio, port: int) -> None:
        self.studio = studio
        self.address = f"http://{NAME}:{port}"
        self.http = httpx2.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Host": f"{NAME}:{port}"},
            timeout=30, trust_env=False,
        )  # fmt: skip

    def answers(self) -> bool:
        """Return True if the daemon answers through the proxy."""
        try:
            return self.http.get("/i2vd/healthz").text == "ok\n"
        except httpx2.TransportError:
            return False


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    studio = quick_studio(tmp_path_factory.mktemp("behind"))
    studio.environment["I2VD_HTTP__ALLOWED_HOSTS"] = json.dumps([NAME])
    studio.environment["I2VD_HTTP__MAX_UPLOAD"] = "1MB"
    yield studio.start()
    studio.close()


@pytest.fixture(scope="module", params=[nginx, caddy, apache], ids=lambda each: each.__name__)
def proxy(
    request: pytest.FixtureRequest, studio: Studio, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    configure: Callable[[Path, int, int], list[str]] = request.param
    root, port = tmp_path_factory.mktemp(configure.__name__), free_port()
    command = configure(root, port, studio.port)
    environment = os.environ | {"HOME": str(root), "XDG_DATA_HOME": str(root)}
    with (root / "output").open("wb") as output:
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=output, stderr=output)
    before = Proxy(studio, port)
    try:
        end = time.monotonic() + 30
        while not before.answers():
            assert process.poll() is None, (root / "output").read_text()
            assert time.monotonic() < end, (root / "output").read_text()
            time.sleep(0.1)
        yield before
    finally:
        before.http.close()
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:  # Apache with a single process
            process.kill()
            process.wait()


def test_the_page_works_in_a_browser(proxy: Proxy, tmp_path: Path) -> None:
    studio, name = proxy.studio, f"{proxy.address[-5:]}.png"
    file = tmp_path / name
    file.write_bytes(picture(int(proxy.address[-2:])))
    with browser(f"{proxy.address}/i2vd", name=NAME) as page:
        page.open("make")
        page.errors()
        assert page.value("isSecureContext") is False
        page.driver.find_element("css selector", "input[type=file]").send_keys(str(file))
        page.until_text(name)
        page.press("Make the clip")
        studio.until_settled(name, "done")
        page.turn_to("clips")
        page.until_text(name)
        page.click(".clip")
        page.until("document.querySelector('dialog video')?.readyState > 0")
        link = page.value("document.querySelector('dialog a[download]').href")
        assert link.startswith(f"{proxy.address}/i2vd/api/jobs/")
        page.open("queue")
        page.press("Pause")
        page.until("document.querySelector('#status.paused')")
        page.press("Go on")
        page.until("document.querySelector('#status.idle')")
        asked = page.value("performance.getEntriesByType('resource').map((e) => e.name)")
        assert all(each.startswith(f"{proxy.address}/i2vd/") for each in asked)
        # Without TLS the browser ignores one header; the icon of the site is the proxy's.
        others = ("Cross-Origin-Opener-Policy header has been ignored", f"{proxy.address}/favicon")
        assert [e for e in page.errors() if not any(each in e for each in others)] == []


def test_the_path_without_a_slash_leads_to_the_page(proxy: Proxy) -> None:
    answer = proxy.http.get("/i2vd")
    assert answer.status_code in (301, 302, 308)
    assert answer.headers["location"].removeprefix(proxy.address).endswith("/i2vd/")


def test_an_event_comes_through_at_once(proxy: Proxy) -> None:
    with proxy.http.stream("GET", "/i2vd/api/events") as answer:
        assert answer.headers["cache-control"] == "no-store"
        proxy.studio.drop(f"event-{proxy.address[-5:]}.png", picture(2))
        events = iter(httpx2.EventSource(answer))
        assert next(events).event == "job"
        proxy.studio.until_settled(f"event-{proxy.address[-5:]}.png", "done")


def test_other_sites_are_refused_through_it_too(proxy: Proxy) -> None:
    for origin in ("https://evil.example", "null"):
        assert proxy.http.post("/i2vd/api/pause", headers={"Origin": origin}).status_code == 403
    assert proxy.http.post("/i2vd/api/resume", headers={"Origin": f"https://{NAME}"}).is_success


def test_head_and_the_description_come_through_it(proxy: Proxy) -> None:
    assert proxy.http.head("/i2vd/healthz").status_code == 200
    document = proxy.http.get("/i2vd/api/openapi.json").json()
    assert document["servers"] == [{"url": "/i2vd"}]
    for path in ("/api/status", "/api/presets"):
        assert proxy.http.get(document["servers"][0]["url"] + path).is_success


@pytest.mark.parametrize("size", [2_000_000, 8_000_000])
def test_an_upload_over_the_limit_is_told_so(proxy: Proxy, size: int) -> None:
    files = {"picture": ("big.png", bytes(size))}
    assert proxy.http.post("/i2vd/api/jobs", files=files).status_code == 413
