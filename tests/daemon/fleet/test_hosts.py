"""The hosts of a queue: who lives, who is drained, who is forgotten; the same on both engines."""

from collections.abc import Callable

import pytest

from daemon.fleet.hosts import Device, Host, HostReport, Hosts, NoSuchHost
from daemon.jobs.database import Database
from daemon.jobs.recovery import Recovery
from daemon.jobs.schema import hosts
from daemon.jobs.store import JobStore
from tests.daemon.conftest import claim

FACTS = HostReport(
    devices=[Device(device="cuda:0", name="NVIDIA L4", memory=24 * 10**9)],
    accepts=["inbox"],
    memory_limit=20 * 10**9,
    speed=3.5,
)


def told(database: Database, name: str, lease: float = 60) -> Hosts:
    """A host that has told of itself."""
    table = Hosts(database, name, lease)
    table.begin(FACTS)
    return table


def named(table: Hosts, name: str) -> Host:
    (found,) = [host for host in table.all() if host.name == name]
    return found


def test_a_host_is_known_with_all_that_it_told(database: Database) -> None:
    one = told(database, "one 1f")
    told(database, "two 2f")
    first, second = one.all()
    assert (first.name, first.owner, first.is_local, first.state) == (
        "one",
        "one 1f",
        True,
        "working",
    )
    assert (second.name, second.is_local) == ("two", False)
    assert first.model_dump(include=set(HostReport.model_fields)) == FACTS.model_dump()
    assert first.seconds_since_heartbeat < 60 < first.started


def test_what_a_host_has_in_hand_stands_with_it(
    database: Database, ledger: JobStore, enqueue: Callable[..., list[int]]
) -> None:
    one, two = told(database, "one"), told(database, "two")
    enqueue("a.jpg")
    enqueue("b.jpg", sha256="bb")
    ledger.begin_publication(claim(ledger, "one"), {})
    job = claim(ledger, "one")
    assert [(held.path, held.state) for held in named(two, "one").jobs] == [
        ("a.jpg", "publishing"),
        ("b.jpg", "running"),
    ]
    assert named(one, "two").jobs == []
    ledger.fail(job, "broke")
    assert len(named(two, "one").jobs) == 1


def test_a_host_that_was_silent_for_its_lease_or_has_left_is_away(database: Database) -> None:
    one, dead = told(database, "one"), told(database, "dead", lease=-1)
    assert named(one, "dead").state == "away"
    one.leave()
    assert named(dead, "one").state == "away"
    one.begin(FACTS)
    assert named(dead, "one").state == "working"


def test_a_drained_host_finishes_what_it_has_and_claims_nothing_more(
    database: Database, ledger: JobStore, enqueue: Callable[..., list[int]]
) -> None:
    one, two = told(database, "one"), told(database, "two")
    enqueue("a.jpg")
    enqueue("b.jpg", sha256="bb")
    job = claim(ledger, "one")
    assert two.drain("one", True).state == "draining"
    assert ledger.claim("one", 30) is None
    assert ledger.begin_publication(job, {})
    assert ledger.done(job, {})
    assert named(one, "one").state == "drained"
    enqueue("c.jpg", sha256="cc", priority=1)
    ledger.begin_publication(claim(ledger, "dead"), {}, lease=-1)
    assert Recovery(database).adopt_publications("one", 30, ["inbox"]) == []
    one.begin(FACTS)  # it is started again
    assert named(one, "one").state == "drained"
    assert ledger.claim("one", 30) is None
    one.leave()
    assert named(two, "one").state == "drained", "no alarm for a host that was stopped in order"
    one.begin(FACTS)
    assert two.drain("one", False).state == "working"
    assert claim(ledger, "one").path == "b.jpg"
    assert Recovery(database).adopt_publications("one", 30, ["inbox"]) == [3]


def test_hosts_of_one_name_are_told_apart(database: Database) -> None:
    one = told(database, "vm 1f")
    told(database, "vm 2f")
    assert [host.name for host in one.all()] == ["vm 1f", "vm 2f"]
    one.drain("vm 2f", True)
    assert [host.state for host in one.all()] == ["working", "drained"]
    with pytest.raises(NoSuchHost, match="no host 'vm'; known: vm 1f, vm 2f"):
        one.drain("vm", True)


def test_a_speed_outlives_a_restart(database: Database) -> None:
    told(database, "one").begin(FACTS.model_copy(update={"speed": None}))
    assert named(Hosts(database, "other", 60), "one").speed == 3.5


def test_a_host_that_is_silent_for_a_month_is_forgotten(database: Database) -> None:
    one = told(database, "one")
    told(database, "late")
    told(database, "gone")
    with database.write() as db:
        for name, days in (("late", 29), ("gone", 31)):
            before = hosts.c.last_heartbeat - days * 86_400.0
            db.execute(hosts.update().where(hosts.c.owner == name).values(last_heartbeat=before))
    one.heartbeat(FACTS)
    left = [host.name for host in one.all()]
    assert left == (["late", "one"] if database.shared else ["one"]), "an embedded one is alone"
