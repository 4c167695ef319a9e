"""Presence: what a daemon tells of itself, and what its devices leave to others."""

from pathlib import Path

import pytest

from daemon.dispatch.slot import Slot
from daemon.fleet.hosts import Facts, Hosts
from daemon.fleet.membership import Presence
from daemon.jobs.database import Database
from daemon.jobs.queries import History
from daemon.jobs.store import Ledger
from pipeline.children.generator import Maker
from pipeline.children.protocol import Load
from tests.daemon.intake.test_intake import Desk

MB = 10**6


@pytest.fixture
def desk(tmp_path: Path, database: Database, ledger: Ledger, history: History) -> Desk:
    return Desk(tmp_path, database, ledger, history)


def slot(device: str, memory: int | None) -> Slot:
    load = Load(model="micro", device=device, dtype="float32")
    return Slot(device, Maker(load, print, print), memory)


async def present(desk: Desk, *slots: Slot) -> Presence:
    presence = Presence(desk.services, Hosts(desk.database, "me", 60), slots)
    await presence.begin()
    return presence


def told(desk: Desk, name: str, reach: int | None, *takes: str) -> Hosts:
    table = Hosts(desk.database, name, 60)
    table.begin(Facts(devices=[], takes=[*takes], reach=reach, speed=None))
    return table


async def test_a_small_device_leaves_jobs_to_a_larger_one_of_its_own_host(desk: Desk) -> None:
    small, large = slot("cpu", 50 * MB), slot("cuda:0", 1000 * MB)
    presence = await present(desk, small, large)
    (me,) = presence.hosts
    fit, best = presence.fit(small), presence.fit(large)
    assert fit is not None
    assert best is not None
    assert fit.reach < best.reach == me.reach == fit.elsewhere["inbox"]
    large.trouble = "it is lost"
    assert presence.fit(small) == type(fit)(fit.reach, {"inbox": fit.reach})


async def test_others_count_for_the_inboxes_from_which_they_take(desk: Desk) -> None:
    told(desk, "any", None, "other")
    told(desk, "large", 1000 * MB, "inbox")
    told(desk, "larger", 2000 * MB, "inbox").leave()
    drained = told(desk, "largest", 3000 * MB, "inbox")
    drained.drain("largest", True)
    one = slot("cpu", 50 * MB)
    presence = await present(desk, one)
    fit = presence.fit(one)
    assert fit is not None
    assert fit.elsewhere["inbox"] == 1000 * MB < fit.elsewhere["other"]
    assert presence.fit(slot("cuda:7", None)) is None


async def test_without_room_or_a_device_nothing_is_taken(desk: Desk) -> None:
    one = slot("cpu", None)
    (me,) = (await present(desk, one)).hosts
    assert (me.takes, me.reach) == (["inbox"], None)
    one.trouble = "no model"
    (me,) = (await present(desk, one)).hosts
    assert me.takes == []
    one.trouble = None
    desk.services.room.blocked["inbox"] = "full"
    (me,) = (await present(desk, one)).hosts
    assert me.takes == []


async def test_who_leaves_or_falls_silent_is_told_once(desk: Desk) -> None:
    presence = await present(desk)
    presence._pause = 0.0
    other = told(desk, "other", None, "inbox")
    gone = []
    for leave in (False, True, False):
        if leave:
            other.leave()
        assert await presence.beat() is None
        gone.append(set(presence.gone))
    others = {"other"} if desk.database.shared else set()  # an embedded queue has none
    assert gone == [set(), others, set()]
