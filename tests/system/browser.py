"""A real browser, headless: what it shows, and what it complained of."""

import contextlib
import tempfile
from collections.abc import Iterator
from typing import Any

from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.system.needs import needs

PATIENCE = 30.0
"""Seconds after which something that the page should show is taken for never coming."""


class Browser:
    """The page of one daemon in one window."""

    def __init__(self, driver: Chrome, address: str) -> None:
        self.driver = driver
        self.address = address

    def open(self, tab: str, *, first: str = "") -> None:
        """The page anew, at a tab; `first`: JavaScript that is run before."""
        self.driver.get(f"{self.address}/page/icon.svg")
        self.driver.execute_script(f"localStorage.clear(); {first}")
        self.driver.get(f"{self.address}/#{tab}")
        self.until("document.querySelector('main > section:not([hidden])')")

    def turn_to(self, tab: str) -> None:
        """Another tab of the page that is open."""
        self.click(f"nav a[href='#{tab}']")

    def find(self, css: str) -> WebElement:
        """The first such element that is shown, once it is there."""

        def there(driver: Chrome) -> WebElement | None:
            found = driver.find_elements(By.CSS_SELECTOR, css)
            return next((each for each in found if each.is_displayed()), None)

        return self._wait(there, f"{css} is shown")

    def click(self, css: str) -> None:
        """Click that element, the one that stands there by then if it is drawn anew meanwhile."""
        self._wait(lambda _: self.find(css).click() or True, f"{css} is clicked")

    def press(self, text: str) -> None:
        """Click the first button that is shown and says that."""

        def pressed(driver: Chrome) -> bool:
            found = driver.find_elements(By.CSS_SELECTOR, "main button, dialog button, dialog a")
            for each in found:
                if each.is_displayed() and each.text == text:
                    each.click()
                    return True
            return False

        self._wait(pressed, f"a button says {text}")

    def until(self, script: str) -> Any:
        """Wait until a JavaScript expression is true, and give it."""
        return self._wait(lambda driver: driver.execute_script(f"return {script}"), script)

    def value(self, script: str) -> Any:
        """A JavaScript expression's value."""
        return self.driver.execute_script(f"return {script}")

    def text(self) -> str:
        """What the window shows."""
        return str(self.driver.find_element(By.TAG_NAME, "body").text)

    def until_said(self, text: str) -> None:
        """Wait until the window shows that text."""
        self._wait(lambda _: text in self.text(), f"the page says {text!r}")

    def be(self, *, width: int = 1280, height: int = 800) -> None:
        """The window's size in CSS pixels, also under the browser's own least width."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def complaints(self) -> list[str]:
        """What the browser complained of since it was last asked: errors, refused scripts.

        But for a small picture that is not found: it may be on its way to another folder.
        """
        told = [e["message"] for e in self.driver.get_log("browser") if e["level"] == "SEVERE"]
        return [each for each in told if not ("/picture - " in each and "404" in each)]

    def _wait(self, ask: Any, what: str) -> Any:
        """What is asked once it is true; a page that is being left meanwhile is asked again."""
        gone = [StaleElementReferenceException]
        wait = WebDriverWait(self.driver, PATIENCE, poll_frequency=0.05, ignored_exceptions=gone)
        try:
            return wait.until(ask)
        except TimeoutException:
            raise AssertionError(f"never came to pass: {what}\n{self.text()[:3000]}") from None


@contextlib.contextmanager
def browser(address: str) -> Iterator[Browser]:
    """Open one, and leave no process behind."""
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
        driver = Chrome(options, ChromeService(driver_path))
        try:
            found = Browser(driver, address)
            found.be()
            yield found
        finally:
            driver.quit()
