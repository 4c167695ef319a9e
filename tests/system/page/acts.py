"""Steps that several tests of the page share."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from tests.system.browser import Browser
from tests.system.studio import Studio, picture


def pick(page: Browser, folder: Path, **pictures: int) -> None:
    """Choose pictures in the file dialog, each drawn from its seed."""
    paths = []
    for name, seed in pictures.items():
        paths.append(folder / f"{name}.png")
        paths[-1].write_bytes(picture(seed))
    page.driver.find_element("id", "files").send_keys("\n".join(map(str, paths)))


def settled(studio: Studio, name: str, **more: Any) -> dict[str, Any]:
    return studio.until_settled(name, "done", **more)[-1]


def failed_again(studio: Studio, page: Browser, job: dict[str, Any]) -> None:
    """Wait until a retried job has failed again and the page shows it."""

    def failed() -> bool:
        return studio.events(job["id"]).count("failed") == 2

    studio.until(failed, f"job {job['id']} failed again")
    (again,) = studio.until_settled(job["path"], "failed")
    finished = str(again["finished"]).removesuffix(".0")  # as JavaScript writes it
    page.find(f".failures [data-key='{again['id']} {finished}']")


def findings(page: Browser) -> list[str]:
    """Return the violations that axe finds on the page, of any severity."""
    if page.value("typeof axe") == "undefined":
        page.driver.execute_script(
            files("axe_playwright_python").joinpath("axe.min.js").read_text()
        )
    found = page.driver.execute_async_script(
        "const [options, done] = arguments;"
        "axe.run(options).then((result) => done(result.violations));",
        {"resultTypes": ["violations"], "preload": False},
    )
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found]
