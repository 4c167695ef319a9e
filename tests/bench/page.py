"""Page and API with a long history: `python -m tests.bench.page`.

Ten thousand finished jobs in the ledger, each with a poster; milliseconds that calls take, and
seconds until a browser shows each tab and has scrolled through many clips.
"""

import os
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path

import httpx2
from rich.console import Console
from rich.table import Table

from daemon.publish.posters import POSTERS
from tests.bench.head import head
from tests.chaos.film import film
from tests.system.browser import browser
from tests.system.studio import DRAFT, Studio, picture

JOBS = 10_000
ASKED = 100
SCROLLS = 20
CALLS = {
    "the newest clips": "/api/jobs?state=done&limit=48",
    "clips further down": "/api/jobs?state=done&limit=48&before=5000",
    "a search that finds nothing": "/api/jobs?state=done&limit=48&text=nothing",
    "a preset's clips": "/api/jobs?state=done&limit=48&preset=draft",
    "a rule's clips of a day": "/api/jobs?state=done&limit=48&rule=90-default&since=1700000000",
    "a poster": "/api/jobs/5000/poster",
    "a part of a clip": "/api/jobs/5000/clip",
    "status": "/api/status",
    "queue": "/api/queue",
    "presets and needs": "/api/presets",
}


def multiply(store: Path, times: int) -> None:
    """Copy the only job `times` times, each with its own picture."""
    with sqlite3.connect(store) as db:
        names = [row[1] for row in db.execute("PRAGMA table_info(jobs)")]
        values = {name: f'"{name}"' for name in names} | {"id": "NULL"}
        values["drop"] = "n.value"
        values["path"] = "'picture ' || n.value || '.png'"
        columns = ", ".join(f'"{name}"' for name in names)
        db.execute(
            f"WITH RECURSIVE n(value) AS (SELECT 2 UNION ALL SELECT value + 1 FROM n "
            f"WHERE value < {times}) INSERT INTO jobs ({columns}) "
            f"SELECT {', '.join(values[name] for name in names)} FROM jobs, n WHERE id = 1"
        )


def pose(folder: Path, times: int) -> None:
    """Copy the only poster `times` times."""
    for number in range(2, times + 1):
        os.link(folder / "1.jpg", folder / f"{number}.jpg")


def main() -> None:
    console = Console(width=100)
    with tempfile.TemporaryDirectory(prefix="i2vd-bench-page-") as folder:
        root = Path(folder)
        clip = film(root / "film.mp4")
        studio = Studio(root / "studio", program="tests.chaos.launch", PEER_FILM=str(clip))
        studio.rule("90-default", DRAFT.replace("camera zooming in slowly", "posed"))
        try:
            studio.start().drop("cat.png", picture())
            studio.until_settled("cat.png", "done")
            studio.stop()
            multiply(studio.root / ".i2vd" / "queue.sqlite", JOBS)
            pose(studio.outbox / POSTERS, JOBS)
            studio.start()
            console.print(head("python -m tests.bench.page"), highlight=False)
            console.print(calls(studio))
            console.print(shown(studio))
        finally:
            studio.close()


def calls(studio: Studio) -> Table:
    """Measure each API call in milliseconds."""
    table = Table(
        "call", "median ms", "p95 ms", title=f"{JOBS:,} jobs, {ASKED} times each", box=None
    )
    with httpx2.Client(base_url=f"http://127.0.0.1:{studio.port}", trust_env=False) as http:
        for name, path in CALLS.items():
            took = []
            for _ in range(ASKED):
                began = time.perf_counter()
                assert http.get(path).is_success
                took.append((time.perf_counter() - began) * 1000)
            table.add_row(name, f"{statistics.median(took):.0f}", f"{p95(took):.0f}")
    return table


def p95(took: list[float]) -> float:
    return statistics.quantiles(took, n=20)[-1]


def shown(studio: Studio) -> Table:
    """Measure the page in a browser in seconds."""
    table = Table("page", "seconds", box=None)
    with browser(f"http://127.0.0.1:{studio.port}") as page:
        page.open("make")  # the browser is warm, its cache holds the page
        for tab in ("make", "queue", "failures", "rules", "health"):
            began = time.perf_counter()
            page.open(tab)
            table.add_row(f"opened at {tab}", f"{time.perf_counter() - began:.1f}")
        began = time.perf_counter()
        page.open("clips")
        page.until("document.querySelector('.grid img')?.naturalWidth")
        table.add_row(
            "opened at clips, until the first poster is seen", f"{time.perf_counter() - began:.1f}"
        )
        began = time.perf_counter()
        for number in range(1, SCROLLS + 1):
            page.driver.execute_script("scrollTo(0, document.body.scrollHeight)")
            page.until(f"document.querySelectorAll('.grid > li').length > {48 * number}")
        cards, videos = (
            page.value(f"document.querySelectorAll('.grid {each}').length")
            for each in ("> li", "video")
        )
        table.add_row(f"scrolled to {cards} clips", f"{time.perf_counter() - began:.1f}")
        table.add_row("videos that exist then", str(videos))
    return table


if __name__ == "__main__":
    main()
