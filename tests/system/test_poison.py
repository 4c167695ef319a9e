"""Jobs that kill what works on them are given up after some tries; pictures whose decoder is killed
by somebody wait. The others go on."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from tests.system.conftest import Open
from tests.system.studio import DRAFT, Studio, picture

pytestmark = pytest.mark.slow

DEADLY = DRAFT.replace("camera zooming in slowly", "kill")


@contextlib.contextmanager
def deadly_to_the_picture_child(studio: Studio) -> Iterator[None]:
    """Somebody kills whoever decodes a picture meanwhile."""
    over = threading.Event()

    def shoot() -> None:
        while not over.wait(0.01):
            for pid in studio.processes("pipeline.image"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    gun = threading.Thread(target=shoot)
    gun.start()
    try:
        yield
    finally:
        over.set()
        gun.join()


def test_a_picture_whose_decoder_is_killed_waits_and_says_so(quick_in: Open) -> None:
    studio = quick_in().start()
    with deadly_to_the_picture_child(studio):
        studio.drop("cat.png", picture(1))
        studio.until(
            lambda: any(line["event"] == "child lost" for line in studio.log()), "one is dead"
        )
        time.sleep(3)
        assert studio.jobs() == []
        assert (studio.inbox / "cat.png").exists()
    studio.drop("good.png", picture(2))
    studio.until_settled("good.png", "done")
    studio.until_settled("cat.png", "done")
    assert studio.metric("i2vd_pictures_rejected_total") == 0


def test_tries_of_a_deadly_job_count_over_restarts(quick_in: Open) -> None:
    studio = quick_in(max_attempts=3, I2VD_QUEUE__BACKOFF="1")
    studio.rule("10-deadly", '[match]\nnames = ["deadly*"]\n\n' + DEADLY)
    studio.start()
    studio.drop("deadly.png", picture(3))
    for failures in (1, 2):
        studio.until(
            lambda: any(j["failures"] >= failures for j in studio.jobs("deadly.png")),  # noqa: B023
            "it has failed once more",
        )
        studio.kill()
        studio.start()
    (job,) = studio.until_settled("deadly.png", "failed")
    assert (job["failures"], job["attempt"] >= 3) == (2, True)
    assert "SIGKILL" in studio.reason("deadly.png")
    studio.drop("good.png", picture(4))
    studio.until_settled("good.png", "done")
    studio.stop()
    studio.start()
    studio.drop("last.png", picture(5))
    studio.until_settled("last.png", "done")
    assert studio.job("deadly.png")["state"] == "failed"
    assert studio.clips() == ["good.mp4", "last.mp4"]
