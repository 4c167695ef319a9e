"""The page in many tabs of one browser, over HTTP/1.1: each is answered and up to date."""

from pathlib import Path

import pytest

from tests.system.browser import Browser, browser
from tests.system.studio import Studio, picture

pytestmark = pytest.mark.slow

TABS = 9
"""A browser opens six connections to one server."""


def connections(studio: Studio) -> int:
    """Connections to the daemon's port that are open, on the daemon's side."""
    port = f":{studio.port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()]
    return sum(line[1].endswith(port) and line[3] == "01" for line in lines)


def test_every_tab_is_answered_and_shows_what_happens(studio: Studio) -> None:
    with browser(f"http://127.0.0.1:{studio.port}") as page:
        page.open("queue")
        page.errors()
        tabs = [page.driver.current_window_handle]
        tabs += [page.open_another("queue") for _ in range(TABS - 1)]
        for tab in tabs:
            page.driver.switch_to.window(tab)
            page.until("document.querySelector('#status.idle')")
            assert page.fetch("api/status")["paused"] is False
        studio.post("/api/pause")
        try:
            for tab in tabs:
                page.driver.switch_to.window(tab)
                page.until("document.querySelector('#status.paused')")
        finally:
            studio.post("/api/resume")
        for tab in tabs[:-1]:  # the one that opened the stream too
            page.driver.switch_to.window(tab)
            page.until("document.querySelector('#status.idle')")
            page.driver.close()
        page.driver.switch_to.window(tabs[-1])
        studio.drop("tabs.png", picture(3))
        studio.until_settled("tabs.png", "done")
        page.turn_to("clips")
        page.until_text("tabs")
        assert page.errors() == []


def test_the_tabs_share_one_stream(studio: Studio) -> None:
    before = connections(studio)
    with browser(f"http://127.0.0.1:{studio.port}") as page:
        page.open("queue")
        for _ in range(TABS - 1):
            page.open_another("queue")
        page.until("document.querySelector('#status.idle')")
        asked = "performance.getEntriesByType('resource').map((e) => e.name).join()"
        assert "api/live" not in page.value(asked)
        assert connections(studio) - before <= 6


def test_without_shared_workers_the_status_is_polled(page: Browser, studio: Studio) -> None:
    script = "delete globalThis.SharedWorker"
    added = page.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
    try:
        page.open("queue")
        page.until("document.querySelector('#status.idle')")
        studio.post("/api/pause")
        page.until("document.querySelector('#status.paused')")
    finally:
        page.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
        studio.post("/api/resume")


def test_a_daemon_that_ends_and_comes_back_is_seen_in_every_tab(studio: Studio) -> None:
    with browser(f"http://127.0.0.1:{studio.port}") as page:
        page.open("queue")
        tabs = [page.driver.current_window_handle, page.open_another("queue")]
        page.until("document.querySelector('#status.idle')")
        assert studio.stop() == 0
        for tab in tabs:
            page.driver.switch_to.window(tab)
            page.until("!document.querySelector('#status.idle')")
        studio.start()
        for tab in tabs:
            page.driver.switch_to.window(tab)
            page.until("document.querySelector('#status.idle')")
