"""A daemon with a stand-in worker, and its page in a browser."""

from collections.abc import Iterator

import pytest

from tests.system.browser import Browser, browser
from tests.system.conftest import quick_studio
from tests.system.studio import Studio


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A daemon with a stand-in worker; each test uses its own file names."""
    root = tmp_path_factory.mktemp("page")
    studio = quick_studio(root)
    studio.rule("10-bad", '[match]\nnames = ["bad*"]\n\n[make]\nprompt = "fail"\n')
    studio.rule("20-endless", '[match]\nnames = ["endless*"]\n\n[make]\nprompt = "wait"\n')
    yield studio.start()
    studio.close()


@pytest.fixture(scope="module")
def window(studio: Studio) -> Iterator[Browser]:
    """One browser for all tests here."""
    with browser(f"http://127.0.0.1:{studio.port}") as opened:
        yield opened


@pytest.fixture
def page(window: Browser) -> Iterator[Browser]:
    """The page, newly loaded; at the end the browser must have no errors."""
    window.resize()
    window.open("make")
    window.errors()
    yield window
    assert window.errors() == []
