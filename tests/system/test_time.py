"""Time that does not pass as it should: clocks that are set, a daemon that stands still."""

import signal
import time
from pathlib import Path

import pytest

from tests.system.conftest import Open
from tests.system.needs import missing
from tests.system.studio import DRAFT, picture

pytestmark = pytest.mark.slow

LONG = '[match]\nnames = ["long*"]\n\n' + DRAFT.replace("camera zooming in slowly", "long")
AGAIN = '[match]\nnames = ["again*"]\n\n' + DRAFT.replace("camera zooming in slowly", "retry film")


def faketime() -> str:
    """The library that lies to a process about the time of day."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        missing("libfaketime is missing; to run this test: apt-get install faketime")
    return str(found[0])


def test_a_clock_that_jumps_costs_neither_tries_nor_days(quick_in: Open, tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0")
    studio = quick_in(
        I2VD_QUEUE__LEASE="3",
        I2VD_QUEUE__BACKOFF="4",
        LD_PRELOAD=faketime(),
        FAKETIME_TIMESTAMP_FILE=str(clock),
        FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )
    studio.rule("10-long", LONG)
    studio.rule("20-again", AGAIN)
    studio.start()
    studio.drop("again.png", picture(1))
    studio.until(lambda: any(j["failures"] for j in studio.jobs("again.png")), "it failed once")
    clock.write_text("-3d")
    (job,) = studio.until_settled("again.png", "done")
    assert (job["attempt"], job["failures"]) == (2, 1)

    for jump in ("+3d", "-3d"):
        name = f"long{jump}.png"
        studio.drop(name, picture(2))
        studio.until_state(name, "running")
        clock.write_text(jump)
        (job,) = studio.until_settled(name, "done")
        assert (job["attempt"], job["failures"]) == (1, 0)
    assert studio.metric("i2vd_queue_oldest_seconds") == 0
    assert studio.metric("i2vd_clip_seconds_sum") >= 0
    assert studio.is_ready()
    assert len(studio.clips()) == 3


def test_a_daemon_that_stands_still_for_longer_than_its_lease_goes_on(quick_in: Open) -> None:
    studio = quick_in(I2VD_QUEUE__LEASE="1")
    studio.rule("10-long", LONG)
    studio.start()
    studio.drop("long.png", picture(3))
    studio.until_state("long.png", "running")
    studio.signal(signal.SIGSTOP)
    studio.drop("meanwhile.png", picture(4))
    time.sleep(6)  # the lease is over, the clip is made, and nobody has heard of it
    studio.signal(signal.SIGCONT)
    for name in ("long.png", "meanwhile.png"):
        (job,) = studio.until_settled(name, "done")
        assert (job["attempt"], job["failures"]) == (1, 0)
    assert studio.clips() == ["long.mp4", "meanwhile.mp4"]
    assert not [line for line in studio.log() if line["level"] == "error"]
