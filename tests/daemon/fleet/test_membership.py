"""Presence: what a daemon tells of itself, and what its devices leave to others."""

from pathlib import Path

import pytest

from daemon.dispatch.slot import Slot
from daemon.fleet.hosts import HostReport, Hosts
from daemon.fleet.membership import Membership
from daemon.jobs.database import Database
from daemon.jobs.queries import JobQueries
from daemon.jobs.store import JobStore
from pipeline.children.generator import ClipGenerator
from pipeline.children.protocol import Load
from tests.daemon.intake.test_intake import Desk

MB = 10**6


@pytest.fixture
def desk(tmp_path: Path, database: Database, ledger: JobStore, history: JobQueries) -> Desk:
    return Desk(tmp_path, database, ledger, history)


def slot(device: str, memory: int | None) -> Slot:
    load = Load(model="micro", device=device, dtype="float32")
    return Slot(device, ClipGenerator(load, print, print), memory)


async def present(desk: Desk, *slots: Slot) -> Membership:
    presence = Membership(desk.services, Hosts(desk.database, "me", 60), slots)
    await presence.join()
    return presence


def told(desk: Desk, name: str, memory_limit: int | None, *accepts: str) -> Hosts:
    table = Hosts(desk.database, name, 60)
    table.begin(HostReport(devices=[], accepts=[*accepts], memory_limit=memory_limit, speed=None))
    return table


async def test_a_small_device_leaves_jobs_to_a_larger_one_of_its_own_host(desk: Desk) -> None:
    small, large = slot("cpu", 50 * MB), slot("cuda:0", 1000 * MB)
    presence = await present(desk, small, large)
    (me,) = presence.hosts
    fit, best = presence.claim_filter(small), presence.claim_filter(large)
    assert fit is not None
    assert best is not None
    assert fit.memory_limit < best.memory_limit == me.memory_limit == fit.largest_elsewhere["inbox"]
    large.problem = "it is lost"
    assert presence.claim_filter(small) == type(fit)(fit.memory_limit, {"inbox": fit.memory_limit})


async def test_others_count_for_the_inboxes_from_which_they_take(desk: Desk) -> None:
    told(desk, "any", None, "other")
    told(desk, "large", 1000 * MB, "inbox")
    told(desk, "larger", 2000 * MB, "inbox").leave()
    drained = told(desk, "largest", 3000 * MB, "inbox")
    drained.drain("largest", True)
    one = slot("cpu", 50 * MB)
    presence = await present(desk, one)
    fit = presence.claim_filter(one)
    assert fit is not None
    assert fit.largest_elsewhere["inbox"] == 1000 * MB < fit.largest_elsewhere["other"]
    assert presence.claim_filter(slot("cuda:7", None)) is None


async def test_without_room_or_a_device_nothing_is_taken(desk: Desk) -> None:
    one = slot("cpu", None)
    (me,) = (await present(desk, one)).hosts
    assert (me.accepts, me.memory_limit) == (["inbox"], None)
    one.problem = "no model"
    (me,) = (await present(desk, one)).hosts
    assert me.accepts == []
    one.problem = None
    desk.services.storage_health.blocked["inbox"] = "full"
    (me,) = (await present(desk, one)).hosts
    assert me.accepts == []


async def test_who_leaves_or_falls_silent_is_told_once(desk: Desk) -> None:
    presence = await present(desk)
    presence._interval = 0.0
    other = told(desk, "other", None, "inbox")
    gone = []
    for leave in (False, True, False):
        if leave:
            other.leave()
        assert await presence.heartbeat() is None
        gone.append(set(presence.departed))
    others = {"other"} if desk.database.shared else set()  # an embedded queue has none
    assert gone == [set(), others, set()]
