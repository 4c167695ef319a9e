"""Two daemons with one set of folders and a queue each: one works, the other says why it waits."""

import pytest

from tests.system.conftest import STEADY, Open
from tests.system.studio import Studio, names, picture

pytestmark = pytest.mark.slow


def share_folders(other: Studio, first: Studio) -> None:
    """Give a studio, which has its own queue, the folders of another."""
    settings = (other.root / "i2vd.toml").read_text(encoding="utf-8")
    folders = {"path": first.inbox, "outbox": first.outbox, "archive": first.archive}
    lines = [f'{key} = "{folder}"' for key, folder in {**folders, "failed": first.failed}.items()]
    other.settings("\n".join([settings, *lines, ""]))


def test_two_state_folders_do_not_share_a_queue_in_a_file(quick_in: Open) -> None:
    """Both would be one host to it, and each would take back what the other makes."""
    url = f"sqlite:///{quick_in('shared').root}/queue.sqlite"
    first, second = (quick_in(name, I2VD_QUEUE__URL=url) for name in ("first", "second"))
    first.start()
    refused = second.command("run")
    assert (refused.returncode, "another i2vd" in refused.stderr) == (4, True), refused.stderr
    restored = second.command("queue", "restore", str(first.root / "i2vd.toml"))
    assert restored.returncode == 4
    assert first.is_ready()


def test_the_second_queue_waits_and_says_whose_the_folders_are(quick_in: Open) -> None:
    first, second = quick_in(), quick_in("second")
    first.rule("10-slow", STEADY)
    first.start()
    first.drop("slow.png", picture(1))
    first.until_state("slow.png", "running")
    share_folders(second, first)
    second.start(ready=False)
    second.until(lambda: "daemon ready" in second.log_file.read_text(), "it answers")
    told = second.request("GET", "/readyz").text
    assert "used by another i2vd" in told
    assert str(first.root / ".i2vd" / "queue.sqlite") in told
    for number in range(2, 6):
        first.drop(f"{number}.png", picture(number))
    for name in ("slow.png", *(f"{number}.png" for number in range(2, 6))):
        (job,) = first.until_settled(name, "done")
        assert (job["attempt"], job["failures"]) == (1, 0), "its staging was left alone"
    assert second.jobs() == []
    assert second.is_alive()
    assert not names(first.failed)
    assert first.clips() == ["2.mp4", "3.mp4", "4.mp4", "5.mp4", "slow.mp4"]
