"""A headless Chromium: the page that it shows, and its error log."""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any

from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.system.needs import needs

TIMEOUT_SECONDS = 30.0
"""Limit for anything that the page should show."""


class Browser:
    """One window with the page of one daemon."""

    def __init__(self, driver: Chrome, address: str) -> None:
        self.driver = driver
        self.address = address

    def open(self, tab: str, *, first: str = "") -> None:
        """Load the page at a tab; `first`: JavaScript to run before."""
        self.driver.get(f"{self.address}/page/icon.svg")
        self.driver.execute_script(f"localStorage.clear(); {first}")
        self.driver.get(f"{self.address}/#{tab}")
        self.until("document.querySelector('main > section:not([hidden])')")

    def open_another(self, tab: str) -> str:
        """Load the page in a new tab of the browser, and return the tab's handle."""
        self.driver.switch_to.new_window("tab")
        self.driver.get(f"{self.address}/#{tab}")
        return str(self.driver.current_window_handle)

    def fetch(self, path: str, seconds: float = 5.0) -> Any:
        """Fetch a path of the API with the page's own means; None without an answer in time."""
        return self.driver.execute_async_script(
            "const [path, limit, done] = arguments; setTimeout(() => done(null), limit);"
            "fetch(path, {cache: 'no-store'}).then((r) => r.json()).then(done, () => done(null));",
            path,
            seconds * 1000,
        )

    def turn_to(self, tab: str) -> None:
        """Select another tab of the open page."""
        self.click(f"nav a[href='#{tab}']")

    def find(self, css: str) -> WebElement:
        """Wait for a visible element and return the first one."""

        def visible(driver: Chrome) -> WebElement | None:
            found = driver.find_elements(By.CSS_SELECTOR, css)
            return next((each for each in found if each.is_displayed()), None)

        return self._wait(visible, f"{css} is shown")

    def click(self, css: str) -> None:
        """Click an element; retries if the page replaces it meanwhile."""
        self._wait(lambda _: self.find(css).click() or True, f"{css} is clicked")

    def press(self, text: str) -> None:
        """Click the first visible button with this text."""

        def pressed(driver: Chrome) -> bool:
            found = driver.find_elements(By.CSS_SELECTOR, "main button, dialog button, dialog a")
            for each in found:
                if each.is_displayed() and each.text == text:
                    each.click()
                    return True
            return False

        self._wait(pressed, f"a button says {text}")

    def until(self, script: str) -> Any:
        """Wait until a JavaScript expression is true and return its value."""
        return self._wait(lambda driver: driver.execute_script(f"return {script}"), script)

    def value(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        return self.driver.execute_script(f"return {script}")

    def text(self) -> str:
        """Return the visible text."""
        return str(self.driver.find_element(By.TAG_NAME, "body").text)

    def until_text(self, text: str) -> None:
        """Wait until the window shows this text."""
        self._wait(lambda _: text in self.text(), f"the page shows {text!r}")

    def resize(self, *, width: int = 1280, height: int = 800) -> None:
        """Set the window size in CSS pixels, also below the browser's minimum width."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def errors(self) -> list[str]:
        """Return the browser's errors since the last call, such as refused scripts.

        Missing thumbnails and previews are skipped: the picture may be moving to another folder,
        and the clip may be done.
        """
        messages = [e["message"] for e in self.driver.get_log("browser") if e["level"] == "SEVERE"]
        moving = re.compile(r"/(picture|preview\S*) - .*404")
        return [each for each in messages if not moving.search(each)]

    def _wait(self, condition: Any, what: str) -> Any:
        """Wait until the condition is true and return its value; retries while a page unloads."""
        gone = [StaleElementReferenceException]
        wait = WebDriverWait(
            self.driver, TIMEOUT_SECONDS, poll_frequency=0.05, ignored_exceptions=gone
        )
        try:
            return wait.until(condition)
        except TimeoutException:
            raise AssertionError(f"never came to pass: {what}\n{self.text()[:3000]}") from None


@contextlib.contextmanager
def browser(address: str, *, name: str = "") -> Iterator[Browser]:
    """Open a browser; its processes end with the context. It finds `name` on this machine."""
    chromium = needs("chromium", package="chromium")
    driver_path = needs("chromedriver", package="chromium-driver")
    options = ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(prefix="i2vd-browser-") as profile:
        for argument in (
            "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
            "--disable-extensions", "--disable-background-networking", "--no-first-run",
            "--lang=en-US", "--hide-scrollbars", f"--user-data-dir={profile}",
        ):  # fmt: skip
            options.add_argument(argument)
        if name:
            options.add_argument(f"--host-resolver-rules=MAP {name} 127.0.0.1")
        driver = Chrome(options, ChromeService(driver_path))
        try:
            found = Browser(driver, address)
            found.resize()
            yield found
        finally:
            driver.quit()
