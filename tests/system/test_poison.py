"""Pictures and jobs that kill what works on them: given up after some tries, the others go on."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from tests.system.conftest import Open
from tests.system.studio import DRAFT, Studio, picture

pytestmark = pytest.mark.slow

DEADLY = DRAFT.replace("camera zooming in slowly", "kill")


@contextlib.contextmanager
def deadly_to_the_picture_child(studio: Studio) -> Iterator[None]:
    """Whoever decodes a picture meanwhile dies of it."""
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


def test_a_picture_that_kills_its_decoder_is_put_aside(quick_in: Open) -> None:
    studio = quick_in().start()
    with deadly_to_the_picture_child(studio):
        studio.drop("poison.png", picture(1))
        studio.until_settled("poison.png", "failed")
    assert "SIGKILL" in studio.reason("poison.png")
    studio.drop("good.png", picture(2))
    studio.until_settled("good.png", "done")
    assert studio.metric("i2vd_pictures_rejected_total") == 1
    studio.stop()
    studio.start()
    assert [each["state"] for each in studio.jobs()] == ["failed", "done"]


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
