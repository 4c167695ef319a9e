"""A rolling upgrade: hosts are drained and upgraded one after another while pictures arrive."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.fleet.identity import host_name
from daemon.jobs.migrations import latest_version
from tests.system.fleet import Fleet, running
from tests.system.studio import Studio, picture

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def dropping(fleet: Fleet) -> Iterator[list[str]]:
    """Drop a picture every 0.4 s meanwhile; the names of all so far."""
    over, names = threading.Event(), list[str]()

    def drop() -> None:
        while not over.wait(0.4):
            name = f"film{len(names)}.png"
            fleet.any.drop(name, picture(len(names)))
            names.append(name)

    thread = threading.Thread(target=drop)
    thread.start()
    try:
        yield names
    finally:
        over.set()
        thread.join()


def upgrade(fleet: Fleet, host: Studio) -> None:
    """Drain a host, start the next version on it, and wait until it has made a clip."""
    name, other = host.root.name, fleet.other(host)
    assert host.post(f"/api/hosts/{name}/drain").is_success
    other.until(lambda: seen(other, name)["state"] == "drained", "it is drained")
    host.stop()
    host.program, host.environment["NEXT"] = "tests.system.next_version", "additive"
    host.start()
    earlier = {job["id"] for job in other.jobs()}
    assert host.post(f"/api/hosts/{name}/undrain").is_success

    def has_made() -> bool:
        new = (job for job in other.jobs() if job["id"] not in earlier)
        return any(job["state"] == "done" and host_name(job["owner"]) == name for job in new)

    other.until(has_made, "the upgraded host has made a clip")


def seen(by: Studio, name: str) -> dict[str, object]:
    """A host as another one shows it."""
    return next(host for host in by.get("/api/hosts") if host["name"] == name)


def test_an_upgrade_host_by_host_makes_each_picture_exactly_once(tmp_path: Path) -> None:
    with running(tmp_path) as fleet:
        with dropping(fleet) as names:
            for host in fleet.hosts:
                upgrade(fleet, host)
        for name in names:
            fleet.any.until_settled(name, "done")
        assert fleet.any.clips() == sorted(name.replace("png", "mp4") for name in names)
        assert len(fleet.any.jobs()) == len(names)
        assert {job["attempt"] for job in fleet.any.jobs()} == {1}
        versions = {seen(fleet.any, name)["schema_version"] for name in ("one", "two")}
        assert versions == {latest_version() + 1}
