"""Several hosts, one queue: real daemons on a real PostgreSQL, over one shared folder."""

import signal
from collections.abc import Iterator

import pytest

from tests.chaos.sweep import Point, armed
from tests.system.fleet import Fleet, running
from tests.system.needs import needs
from tests.system.studio import picture


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running(tmp_path_factory.mktemp("fleet")) as made:
        yield made


def test_two_hosts_that_see_one_inbox_make_each_drop_once(fleet: Fleet) -> None:
    for number in range(8):
        fleet.any.drop(f"many{number}.png", picture(number))
    for number in range(8):
        fleet.any.until_settled(f"many{number}.png", "done")
    assert [clip for clip in fleet.any.clips() if clip.startswith("many")] == [
        f"many{number}.mp4" for number in range(8)
    ]
    assert len(list(fleet.any.archive.glob("many*"))) == 8
    assert fleet.any.jobs() == fleet.hosts[1].jobs()
    for job in fleet.any.jobs():
        poster = f"/api/jobs/{job['id']}/poster"
        one, two = (host.request("GET", poster) for host in fleet.hosts)
        assert one.is_success
        assert one.content == two.content, "whichever host made the clip"


def test_a_host_that_dies_loses_its_job_to_another(fleet: Fleet) -> None:
    fleet.any.drop("steady-dies.png", picture(20))
    dead = fleet.at("steady-dies.png")
    living = fleet.other(dead)
    dead.kill()
    living.until_settled("steady-dies.png", "done")
    job = living.job("steady-dies.png")
    assert job["attempt"] == 2
    assert "recovered" in living.events(job["id"])
    living.until(lambda: not living.staging(), "what the dead host left is swept")
    dead.start()


def test_what_a_host_that_dies_did_not_put_away_another_puts_away(fleet: Fleet) -> None:
    """Killed before the move of a picture whose clip is published."""
    needs("strace", package="strace")
    dead, living = fleet.hosts
    dead.drop("warm.png", picture(25))
    dead.until_settled("warm.png", "done")
    living.signal(signal.SIGSTOP)
    try:
        with armed(dead, Point("picture", "renameat2", 1)):
            dead.drop("finished.png", picture(26))
            dead.wait()
        assert (dead.inbox / "finished.png").exists()
    finally:
        living.signal(signal.SIGCONT)
    living.until_settled("finished.png", "done")
    assert (living.archive / "finished.png").exists()
    dead.start()


def test_a_host_that_was_paused_finds_itself_fenced_and_goes_on(fleet: Fleet) -> None:
    fleet.any.drop("steady-late.png", picture(21))
    late = fleet.at("steady-late.png")
    other = fleet.other(late)
    late.signal(signal.SIGSTOP)
    try:
        other.until_settled("steady-late.png", "done")
    finally:
        late.signal(signal.SIGCONT)
    late.until(lambda: late.slot()["path"] is None, "it has given up")
    late.until(lambda: not late.staging(), "its staging is gone")
    assert [clip for clip in late.clips() if "late" in clip] == ["steady-late.mp4"]
    assert other.job("steady-late.png")["attempt"] == 2
    late.until(late.is_ready, "it goes on")


def test_work_in_hand_is_published_when_the_database_is_back(fleet: Fleet) -> None:
    fleet.any.drop("steady-away.png", picture(22))
    host = fleet.at("steady-away.png")
    fleet.server.stop()
    clips = (host.outbox / ".i2vd").glob
    host.until(lambda: any(clips("*/clip.mp4")), "the clip is made")
    host.until(lambda: not host.is_ready(), "it says so")
    fleet.server.start()
    host.until_settled("steady-away.png", "done")
    assert host.job("steady-away.png")["attempt"] == 1
    assert [clip for clip in host.clips() if "away" in clip] == ["steady-away.mp4"]
    for each in fleet.hosts:
        each.until(each.is_ready, "all is well again")
