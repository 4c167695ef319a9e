"""Membership: the heartbeat of a daemon, and the claim filters of its devices."""

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
def desk(tmp_path: Path, database: Database, store: JobStore, queries: JobQueries) -> Desk:
    return Desk(tmp_path, database, store, queries)


def slot(device: str, memory: int | None) -> Slot:
    load = Load(model="micro", device=device, dtype="float32")
    return Slot(device, ClipGenerator(load, print, print), memory)


async def join(desk: Desk, *slots: Slot) -> Membership:
    membership = Membership(desk.services, Hosts(desk.database, "me", 60), slots)
    await membership.join()
    return membership


def add_host(desk: Desk, name: str, memory_limit: int | None, *accepts: str) -> Hosts:
    table = Hosts(desk.database, name, 60)
    table.begin(HostReport(devices=[], accepts=[*accepts], memory_limit=memory_limit, speed=None))
    return table


async def test_a_small_device_skips_jobs_for_a_larger_one_of_its_host(desk: Desk) -> None:
    small, large = slot("cpu", 50 * MB), slot("cuda:0", 1000 * MB)
    membership = await join(desk, small, large)
    (me,) = membership.hosts
    fit, best = membership.claim_filter(small), membership.claim_filter(large)
    assert fit is not None
    assert best is not None
    assert fit.memory_limit < best.memory_limit == me.memory_limit == fit.largest_elsewhere["inbox"]
    large.problem = "it is lost"
    assert membership.claim_filter(small) == type(fit)(
        fit.memory_limit, {"inbox": fit.memory_limit}
    )


async def test_other_hosts_count_for_the_inboxes_that_they_accept(desk: Desk) -> None:
    add_host(desk, "any", None, "other")
    add_host(desk, "large", 1000 * MB, "inbox")
    add_host(desk, "larger", 2000 * MB, "inbox").leave()
    drained = add_host(desk, "largest", 3000 * MB, "inbox")
    drained.drain("largest", True)
    one = slot("cpu", 50 * MB)
    membership = await join(desk, one)
    fit = membership.claim_filter(one)
    assert fit is not None
    assert fit.largest_elsewhere["inbox"] == 1000 * MB < fit.largest_elsewhere["other"]
    assert membership.claim_filter(slot("cuda:7", None)) is None


async def test_a_blocked_inbox_or_a_broken_device_accepts_nothing(desk: Desk) -> None:
    one = slot("cpu", None)
    (me,) = (await join(desk, one)).hosts
    assert (me.accepts, me.memory_limit) == (["inbox"], None)
    one.problem = "no model"
    (me,) = (await join(desk, one)).hosts
    assert me.accepts == []
    one.problem = None
    desk.services.storage_health.blocked["inbox"] = "full"
    (me,) = (await join(desk, one)).hosts
    assert me.accepts == []


async def test_a_departed_host_is_reported_once(desk: Desk) -> None:
    membership = await join(desk)
    membership._interval = 0.0
    other = add_host(desk, "other", None, "inbox")
    gone = []
    for leave in (False, True, False):
        if leave:
            other.leave()
        assert await membership.heartbeat() is None
        gone.append(set(membership.departed))
    others = {"other"} if desk.database.shared else set()  # an embedded queue has none
    assert gone == [set(), others, set()]
