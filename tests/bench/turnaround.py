"""From a whole picture to its clip, less what the model takes: `python -m tests.bench.turnaround`.

How long after it has stood still a picture is claimed, while a thousand jobs that are not due yet
wait in the queue and the device is free; and what a job takes beside the work of its worker, which
is the real one with the embedded model, from the claim until the picture is in the archive.
"""

import argparse
import contextlib
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from daemon.jobs.database import Database
from daemon.jobs.schema import jobs
from tests.bench.head import head
from tests.chaos.film import film
from tests.system.studio import DRAFT, Studio, picture

SETTLE = 2.0
"""Seconds for which a picture must stand still: the setting's default."""
SETTINGS = '[model]\ndevices = ["cpu"]\n'
"""All else as it is by default."""


def events(studio: Studio, event: str) -> dict[str, float]:
    """When each picture first had this event, by its path; seconds since 1970."""
    query = (
        "select path, min(at) from events join jobs on jobs.id = job where event = ? group by path"
    )
    file = f"file:{studio.root}/.i2vd/queue.sqlite?mode=ro"
    with contextlib.closing(sqlite3.connect(file, uri=True)) as queue:
        return dict(queue.execute(query, [event]))


def enter_waiting(studio: Studio, count: int) -> None:
    """Rows in the ledger as of jobs that failed and are tried again tomorrow."""
    common = {"inbox": "inbox", "drop": 1, "variant": 1, "sha256": "", "source": {}}
    common |= {"whereabouts": "inbox", "clip_name": "old", "state": "queued", "created": 0.0}
    common |= {"fingerprint": "", "due": time.time() + 86400, "attempt": 1, "failures": 1}
    database = Database(f"sqlite:///{studio.root}/.i2vd/queue.sqlite")
    with database.write() as db:
        db.execute(jobs.insert(), [common | {"path": f"old-{n}.png"} for n in range(count)])
    database.close()


def until_claimed(root: Path, waiting: int, drops: int) -> list[float]:
    """Seconds from the moment at which a picture had stood still to its claim, of each drop."""
    clip = film(root / "film.mp4")
    studio = Studio(root / "claims", program="tests.chaos.launch", PEER_FILM=str(clip))
    try:
        studio.settings(SETTINGS)
        studio.rule("90-default", DRAFT.replace("camera zooming in slowly", "film"))
        studio.start().stop()
        enter_waiting(studio, waiting)
        studio.start()
        studio.drop("warm.png", picture(1))
        studio.until_settled("warm.png", "done")
        whole = {}
        for number in range(drops):
            name = f"new-{number}.png"
            studio.drop(name, picture(number) + number.to_bytes(4, "big"))
            whole[name] = time.time()
            time.sleep(0.5)  # longer than the stand-in takes
        studio.until_settled(name, "done")
        claimed = events(studio, "running")
        return [claimed[name] - whole[name] - SETTLE for name in whole]
    finally:
        studio.close()


def beside_the_worker(root: Path, clips: int) -> list[float]:
    """Seconds of each job from its claim to the archive, less those of the worker's stages."""
    studio = Studio(root / "jobs")
    try:
        studio.settings(SETTINGS)
        studio.start()
        studio.drop("warm.png", picture(1))
        studio.until_settled("warm.png", "done")
        beside = []
        for number in range(clips):
            name = f"new-{number}.png"
            studio.drop(name, picture(number) + number.to_bytes(4, "big"))
            studio.until((studio.archive / name).exists, "it is archived")
            stages = studio.sidecar(f"new-{number}.mp4")["seconds"]
            ended = (studio.archive / name).lstat().st_ctime  # when it was moved there
            beside.append(ended - events(studio, "running")[name] - sum(stages.values()))
        return beside
    finally:
        studio.close()


def told(seconds: Sequence[float]) -> list[str]:
    """Median, 99 of 100, and most, in milliseconds."""
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))]
    return [f"{1000 * each:.0f} ms" for each in (statistics.median(ordered), p99, ordered[-1])]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.turnaround")
    parser.add_argument("--waiting", type=int, default=1000, help="jobs that are not due")
    parser.add_argument("--drops", type=int, default=200)
    parser.add_argument("--clips", type=int, default=20)
    options = parser.parse_args()
    table = Table("what", "median", "p99", "most", "aim", box=None)
    with tempfile.TemporaryDirectory(prefix="i2vd-bench-") as folder:
        soon = until_claimed(Path(folder), options.waiting, options.drops)
        what = f"whole to claimed, beyond {SETTLE:g} s, {options.waiting} waiting"
        table.add_row(what, *told(soon), "p99 under 100 ms")
        beside = beside_the_worker(Path(folder), options.clips)
        table.add_row("claimed to archived, beside the worker", *told(beside), "under 150 ms")
    console = Console(width=120)
    console.print(head(f"{options.drops} drops, {options.clips} clips"))
    console.print(table)


if __name__ == "__main__":
    main()
