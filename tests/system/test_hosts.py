"""The hosts of a fleet: shown, drained, with roles, of two versions; real daemons share a queue."""

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from daemon.jobs.migrations import latest_version
from tests.system.browser import browser
from tests.system.fleet import Fleet, running
from tests.system.studio import Studio, picture

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running(tmp_path_factory.mktemp("hosts")) as made:
        yield made


def state(seen_by: Studio, host: Studio) -> str:
    return told(seen_by, host)["state"]


def told(seen_by: Studio, host: Studio) -> dict[str, Any]:
    """What a host tells of another, or of itself."""
    known = {each["name"]: each for each in seen_by.get("/api/hosts")}
    return known[host.root.name]


def makers(fleet: Fleet, *pictures: str) -> list[str]:
    """The hosts that made these."""
    return [fleet.any.job(name)["owner"].partition(" ")[0] for name in pictures]


def test_a_drained_host_finishes_what_it_has_and_stays_so_until_told(fleet: Fleet) -> None:
    fleet.any.drop("steady-drain.png", picture(1))
    host = fleet.at("steady-drain.png")
    other, name = fleet.other(host), host.root.name
    draining = other.post(f"/api/hosts/{name}/drain").json()
    assert draining["state"] == "draining"
    assert [job["path"] for job in draining["jobs"]] == ["steady-drain.png"]
    preview = f"/api/jobs/{draining['jobs'][0]['id']}/preview"
    other.until(lambda: other.get("/api/status")["elsewhere"][0]["preview_version"], "it is seen")
    assert other.request("GET", preview).headers["content-type"] == "image/jpeg"
    waiting = [f"drain{number}.png" for number in range(4)]
    for number, each in enumerate(waiting):
        fleet.any.drop(each, picture(2 + number))
    host.until_settled("steady-drain.png", "done")
    assert host.job("steady-drain.png")["attempt"] == 1
    for each in waiting:
        host.until_settled(each, "done")
    assert makers(fleet, "steady-drain.png", *waiting) == [name, *4 * [other.root.name]]
    assert state(other, host) == "drained"
    assert host.metric("i2vd_host_state", host=name, state="drained") == 1
    shown = other.command("hosts").stdout.splitlines()
    assert [line.split()[1] for line in shown if name in line] == ["drained"]
    (shown,) = [line for line in other.command("jobs").stdout.splitlines() if "-drain.png" in line]
    assert name in shown.split()

    assert host.stop() == 0
    host.start()
    host.drop("again.png", picture(7))
    host.until_settled("again.png", "done")
    assert makers(fleet, "again.png") == [other.root.name]
    assert host.command("drain").stdout == f"{name} is drained\n"
    assert host.command("drain", "--undo").stdout == f"{name} is working\n"
    other.command("drain")
    host.drop("undone.png", picture(8))
    host.until_settled("undone.png", "done")
    assert makers(fleet, "undone.png") == [name]
    other.command("drain", "--undo")
    assert other.command("drain", "three").returncode == 1


def test_the_page_shows_all_hosts_and_what_they_make(fleet: Fleet) -> None:
    fleet.any.rule("15-endless", '[match]\nnames = ["endless*"]\n\n[make]\nprompt = "wait"\n')
    fleet.any.post("/api/rules/reload")
    fleet.hosts[1].post("/api/rules/reload")
    fleet.any.drop("seen.png", picture(9))
    fleet.any.until_settled("seen.png", "done")
    fleet.any.drop("endless.png", picture(10))
    host = fleet.at("endless.png")
    other, name = fleet.other(host), host.root.name
    with browser(f"http://127.0.0.1:{other.port}") as page:
        page.open("queue")
        page.errors()
        page.until_text("endless.png")
        assert name in page.find(".running .card:has(.name) .device").text
        page.turn_to("health")
        page.until_text("Hosts of this queue")
        page.click(f"button[data-host={name}]")
        page.until_text("draining")
        other.post(f"/api/jobs/{host.job('endless.png')['id']}/cancel")
        page.until_text("drained")
        assert state(other, host) == "drained"
        page.click(f"button[data-host={name}]")
        page.until("!document.querySelector('.hosts').textContent.includes('drain')")
        page.turn_to("clips")
        page.click(".clip")
        page.until_text("Host")
        assert page.errors() == []
    assert state(other, host) == "working"


def test_a_host_that_stops_is_away_at_once_and_another_sees_it(fleet: Fleet) -> None:
    one, two = fleet.hosts
    assert [each["state"] for each in one.get("/api/hosts")] == ["working", "working"]
    assert two.stop() == 0
    assert state(one, two) == "away"
    assert one.metric("i2vd_host_state", host="two", state="away") == 1
    shown = json.loads(one.command("hosts", "--json").stdout)
    assert [(each["name"], each["is_local"]) for each in shown] == [("one", True), ("two", False)]
    assert shown[0]["devices"][0]["device"] == "cpu"
    two.start()
    assert state(one, two) == "working"
    two.kill()
    one.until(lambda: state(one, two) == "away", "its silence is noticed")
    two.start()


def test_one_host_watches_and_another_makes(fleet: Fleet) -> None:
    """A pure worker knows the inbox and does not look into it; a pure watcher has no device."""
    worker, watcher = fleet.hosts
    fleet.settings(worker, more="watch = []")
    fleet.settings(watcher, devices="[]")
    for host in fleet.hosts:
        host.stop()
        host.log_file.unlink()
    worker.start()
    worker.drop("role-early.png", picture(30))
    watcher.start()
    worker.drop("role-late.png", picture(31))
    for name in ("role-early.png", "role-late.png"):
        watcher.until_settled(name, "done")
    assert makers(fleet, "role-early.png", "role-late.png") == ["one", "one"]
    said = {host.root.name: [line["event"] for line in host.log()] for host in fleet.hosts}
    assert (said["one"].count("job queued"), said["one"].count("job done")) == (0, 2)
    assert (said["two"].count("job queued"), said["two"].count("job started")) == (2, 0)
    assert watcher.get("/api/status")["slots"] == []
    assert told(worker, watcher)["devices"] == []
    assert watcher.get("/api/presets")["needs"]
    assert watcher.command("check").returncode == 0


def test_a_small_card_leaves_large_clips_to_a_larger_one_while_that_lives(fleet: Fleet) -> None:
    large, small = fleet.hosts
    fleet.any.rule(
        "20-fit", '[match]\nnames = ["fit*"]\n\n[make]\nprompt = "film"\npreset = "high"\n'
    )
    fleet.settings(large, devices='["cpu", "cpu"]')
    fleet.settings(small, model='max_vram = "50MB"')
    for host in fleet.hosts:
        host.stop()
        host.start()
    asked = [f"fit{number}.png" for number in range(6)]
    for number, name in enumerate(asked):
        small.drop(name, picture(40 + number))
    for name in asked:
        small.until_settled(name, "done")
    assert makers(fleet, *asked) == 6 * ["one"]
    assert not any(small.job(name)["result"]["degraded"] for name in asked)
    assert len(told(small, large)["devices"]) == 2

    small.command("drain", "one")
    small.drop("fit-alone.png", picture(47))
    small.until_settled("fit-alone.png", "done")
    small.command("drain", "--undo", "one")
    assert makers(fleet, "fit-alone.png") == ["two"]
    assert small.job("fit-alone.png")["result"]["degraded"]

    large.kill()
    small.drop("fit-left.png", picture(48))
    small.until_settled("fit-left.png", "done")
    large.start()
    assert makers(fleet, "fit-left.png") == ["two"]
    assert small.job("fit-left.png")["result"]["degraded"]


def test_hosts_of_two_versions_work_together_and_of_others_not(fleet: Fleet) -> None:
    """An upgrade, one host after another; then one whose tables the old version cannot use."""
    old, new = fleet.hosts
    for host in fleet.hosts:
        host.stop()
        fleet.settings(host)
        host.log_file.unlink()
    old.start()
    old.drop("steady-old.png", picture(60))
    old.until(lambda: old.slot()["path"], "the old one is at it")
    new.program = "tests.system.next_version"
    new.environment["NEXT"] = "additive"
    new.start()
    seen = {each["name"]: each["schema_version"] for each in old.get("/api/hosts")}
    assert seen == {"one": latest_version(), "two": latest_version() + 1}
    old.until_settled("steady-old.png", "done")
    assert old.job("steady-old.png")["attempt"] == 1
    old.stop()
    old.start()
    for number, (drained, generator) in enumerate([("one", "two"), ("two", "one")]):
        name = f"both{number}.png"
        assert old.post(f"/api/hosts/{drained}/drain").is_success
        old.drop(name, picture(61 + number))
        old.until_settled(name, "done")
        assert makers(fleet, name) == [generator]
        assert new.post(f"/api/hosts/{drained}/undrain").is_success

    new.stop()
    new.environment["NEXT"] = "breaking"
    new.start(ready=False)
    waiting = "still in use by an older i2vd on one"
    new.until(lambda: waiting in new.log_file.read_text(), "it waits for the old one")
    assert old.is_ready()
    old.signal(signal.SIGSTOP)
    try:
        new.until(new.is_ready, "the old one is silent")
    finally:
        old.signal(signal.SIGCONT)
    assert old.wait() == 1
    why = f"has schema {latest_version() + 2}, this i2vd knows {latest_version()}"
    said = old.log_tail(5)
    assert "queue unusable" in said
    assert why in said
    refused = old.command("run")
    assert refused.returncode == 1
    assert why in refused.stderr
    new.drop("newest.png", picture(70))
    new.until_settled("newest.png", "done")
