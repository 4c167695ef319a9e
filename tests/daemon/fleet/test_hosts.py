"""Hosts table: liveness, draining and pruning, on both engines."""

from collections.abc import Callable

import pytest

from daemon.fleet.hosts import Device, Host, HostReport, Hosts, NoSuchHost
from daemon.jobs.database import Database
from daemon.jobs.recovery import Recovery
from daemon.jobs.schema import hosts
from daemon.jobs.store import JobStore
from tests.daemon.conftest import claim

REPORT = HostReport(
    devices=[Device(device="cuda:0", name="NVIDIA L4", memory=24 * 10**9)],
    accepts=["inbox"],
    memory_limit=20 * 10**9,
    speed=3.5,
)


def add_host(database: Database, name: str, lease: float = 60) -> Hosts:
    """Add a host with a heartbeat."""
    table = Hosts(database, name, lease)
    table.begin(REPORT)
    return table


def named(table: Hosts, name: str) -> Host:
    (found,) = [host for host in table.all() if host.name == name]
    return found


def test_a_host_is_listed_with_its_report(database: Database) -> None:
    one = add_host(database, "one 1f")
    add_host(database, "two 2f")
    first, second = one.all()
    assert (first.name, first.owner, first.is_local, first.state) == (
        "one",
        "one 1f",
        True,
        "working",
    )
    assert (second.name, second.is_local) == ("two", False)
    assert first.model_dump(include=set(HostReport.model_fields)) == REPORT.model_dump()
    assert first.seconds_since_heartbeat < 60 < first.started


def test_a_host_is_listed_with_its_active_jobs(
    database: Database, store: JobStore, enqueue: Callable[..., list[int]]
) -> None:
    one, two = add_host(database, "one"), add_host(database, "two")
    enqueue("a.jpg")
    enqueue("b.jpg", sha256="bb")
    store.begin_publication(claim(store, "one"), {})
    job = claim(store, "one")
    assert [(held.path, held.state) for held in named(two, "one").jobs] == [
        ("a.jpg", "publishing"),
        ("b.jpg", "running"),
    ]
    assert named(one, "two").jobs == []
    store.fail(job, "broke")
    assert len(named(two, "one").jobs) == 1


def test_a_host_is_away_after_its_lease_or_after_leaving(database: Database) -> None:
    one, dead = add_host(database, "one"), add_host(database, "dead", lease=-1)
    assert named(one, "dead").state == "away"
    one.leave()
    assert named(dead, "one").state == "away"
    one.begin(REPORT)
    assert named(dead, "one").state == "working"


def test_a_drained_host_finishes_its_jobs_and_claims_no_more(
    database: Database, store: JobStore, enqueue: Callable[..., list[int]]
) -> None:
    one, two = add_host(database, "one"), add_host(database, "two")
    enqueue("a.jpg")
    enqueue("b.jpg", sha256="bb")
    job = claim(store, "one")
    assert two.drain("one", True).state == "draining"
    assert store.claim("one", 30) is None
    assert store.begin_publication(job, {})
    assert store.done(job, {})
    assert named(one, "one").state == "drained"
    enqueue("c.jpg", sha256="cc", priority=1)
    store.begin_publication(claim(store, "dead"), {}, lease=-1)
    assert Recovery(database).adopt_publications("one", 30, ["inbox"]) == []
    one.begin(REPORT)  # it is started again
    assert named(one, "one").state == "drained"
    assert store.claim("one", 30) is None
    one.leave()
    assert named(two, "one").state == "drained", "no alarm for a host that was stopped in order"
    one.begin(REPORT)
    assert two.drain("one", False).state == "working"
    assert claim(store, "one").path == "b.jpg"
    assert Recovery(database).adopt_publications("one", 30, ["inbox"]) == [3]


def test_hosts_with_the_same_name_are_listed_by_owner(database: Database) -> None:
    one = add_host(database, "vm 1f")
    add_host(database, "vm 2f")
    assert [host.name for host in one.all()] == ["vm 1f", "vm 2f"]
    one.drain("vm 2f", True)
    assert [host.state for host in one.all()] == ["working", "drained"]
    with pytest.raises(NoSuchHost, match="no host 'vm'; known: vm 1f, vm 2f"):
        one.drain("vm", True)


def test_a_speed_outlives_a_restart(database: Database) -> None:
    add_host(database, "one").begin(REPORT.model_copy(update={"speed": None}))
    assert named(Hosts(database, "other", 60), "one").speed == 3.5


def test_a_host_without_a_heartbeat_for_a_month_is_deleted(database: Database) -> None:
    one = add_host(database, "one")
    add_host(database, "late")
    add_host(database, "gone")
    with database.write() as db:
        for name, days in (("late", 29), ("gone", 31)):
            before = hosts.c.last_heartbeat - days * 86_400.0
            db.execute(hosts.update().where(hosts.c.owner == name).values(last_heartbeat=before))
    one.heartbeat(REPORT)
    left = [host.name for host in one.all()]
    assert left == (["late", "one"] if database.shared else ["one"]), "an embedded one is alone"
