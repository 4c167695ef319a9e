"""Hosts in network namespaces, whose cables are cut, over one folder that each sees elsewhere."""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.postgres import Server, serving
from tests.system.conftest import quick_studio
from tests.system.hosts import ADDRESS, Network, network
from tests.system.needs import needs
from tests.system.studio import DRAFT, Studio, names, picture

LEASE = 6
SETTINGS = """\
min_free = 0
scan_interval = 0.2

[queue]
url = "{url}"
lease = 6
backoff = 0.1

[model]
devices = ["cpu"]

[[inbox]]
name = "studio"
path = "{share}/inbox"
outbox = "{share}/outbox"
archive = "{share}/archive"
failed = "{share}/failed"
rules = "{share}/rules"
stability_delay = 0.2
"""
STEADY = '[match]\nnames = ["steady*"]\n\n' + DRAFT.replace("camera zooming in slowly", "steady")
ROLES = ("inbox", "outbox", "archive", "failed", "rules")


class House:
    """Two hosts: the one sees the storage itself, the other through FUSE, at other paths."""

    def __init__(self, root: Path, wires: Network, server: Server) -> None:
        self.wires, self.store, self.far = wires, root / "store", root / "far"
        url = server.url(server.fresh(), ADDRESS.format(1))
        for role in ROLES:
            (self.store / role).mkdir(parents=True)
        self.far.mkdir()
        self.mount()
        self.hosts = {}
        for name, share in (("one", self.store), ("two", self.far)):
            host = self.hosts[name] = quick_studio(root, name)
            host.prefix = wires.prefix(name, host.port)
            host.settings(SETTINGS.format(url=url, share=share))
            for role in ROLES:
                setattr(host, role, share / role)
        self.one, self.two = self.hosts["one"], self.hosts["two"]
        self.one.rule("10-steady", STEADY)
        self.one.rule("90-default", DRAFT.replace("camera zooming in slowly", "film"))

    def mount(self) -> None:
        """The second host sees the storage."""
        bindfs = needs("bindfs", package="bindfs fuse3")
        subprocess.run([bindfs, self.store, self.far], check=True)

    def unmount(self) -> None:
        """It does not."""
        subprocess.run(["umount", "--lazy", self.far], check=True)

    def at(self, path: str) -> str:
        """The name of the host that makes a picture's clip now."""

        def busy() -> str | None:
            return next((n for n, host in self.hosts.items() if host.slot()["path"] == path), None)

        return self.one.until(busy, f"somebody is at {path}")

    def upload(self, host: Studio, key: str, name: str, content: bytes) -> httpx2.Response:
        """A picture sent to a host under a key."""
        return httpx2.post(
            f"http://127.0.0.1:{host.port}/api/jobs",
            files={"picture": (name, content)},
            headers={"idempotency-key": key},
            trust_env=False,
            timeout=60,
        )


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    root = tmp_path_factory.mktemp("house")
    with (
        network("db", "one", "two") as wires,
        serving(ADDRESS.format(1), within=wires.within("db")) as server,
    ):
        made = House(root, wires, server)
        try:
            for host in made.hosts.values():
                host.start()
            yield made
        finally:
            for host in made.hosts.values():
                host.close()
            made.unmount()


def test_hosts_see_one_storage_at_other_paths(house: House) -> None:
    for number in range(6):
        house.one.drop(f"sub/many{number}.png", picture(number))
    for number in range(6):
        house.two.until_settled(f"sub/many{number}.png", "done")
    clips = [f"sub/many{number}.mp4" for number in range(6)]
    assert house.one.clips() == house.two.clips() == clips
    for host, share in ((house.one, house.store), (house.two, house.far)):
        job = host.job("sub/many0.png")
        assert job["result"]["clip"] == str(share / "outbox/sub/many0.mp4")
        assert job["picture_path"] == str(share / "archive/sub/many0.png")
        assert host.request("GET", f"/api/jobs/{job['id']}/clip").is_success
        assert host.request("GET", f"/api/jobs/{job['id']}/picture").is_success
    answers = [house.upload(host, "key", "sent.png", picture(7)) for host in house.hosts.values()]
    assert [a.json()["path"] for a in answers] == ["sent.png", "sent.png"], answers
    house.one.until_settled("sent.png", "done")
    assert [clip for clip in house.one.clips() if "sent" in clip] == ["sent.mp4"]


def test_a_host_that_is_cut_off_from_the_database_loses_its_job_and_comes_back(
    house: House,
) -> None:
    house.one.drop("steady-cut.png", picture(30))
    name = house.at("steady-cut.png")
    lonely, other = house.hosts[name], house.two if name == "one" else house.one
    house.wires.cut(name)
    cut = time.monotonic()
    try:
        lonely.until(lambda: not lonely.is_ready(), "it says so", LEASE + 4)
        assert "queue" in lonely.request("GET", "/readyz").text
        other.until_state("steady-cut.png", "running", "done")
        other.drop("meanwhile.png", picture(31))
        other.until_settled("meanwhile.png", "done")
        other.until_settled("steady-cut.png", "done")
        assert other.job("steady-cut.png")["attempt"] == 2
        assert not lonely.is_ready()
        assert time.monotonic() - cut > LEASE
    finally:
        house.wires.reconnect(name)
    lonely.until(lonely.is_ready, "it is back")
    lonely.until(lambda: lonely.slot()["job"] is None, "it has given up")
    lonely.until(lambda: not lonely.staging(), "its own work is thrown away")
    assert [clip for clip in lonely.clips() if "cut" in clip] == ["steady-cut.mp4"]
    assert [p for p in names(house.store / "archive") if "cut" in p] == ["steady-cut.png"]
    other.stop()
    lonely.drop("after.png", picture(32))
    lonely.until_settled("after.png", "done")
    other.start()


def test_a_host_that_does_not_see_the_storage_leaves_its_jobs_to_others(house: House) -> None:
    house.one.post("/api/pause")
    house.one.drop("seen.png", picture(40))
    house.one.until_state("seen.png", "queued")
    house.unmount()
    house.two.until(lambda: house.two.metric("i2vd_storage_ok", inbox="studio") == 0, "it says so")
    assert "intake paused" in house.two.log_file.read_text()
    house.one.signal(signal.SIGSTOP)
    try:
        house.two.post("/api/resume")
        time.sleep(2.5)
        assert house.two.job("seen.png")["state"] == "queued"
    finally:
        house.one.signal(signal.SIGCONT)
    house.one.until_settled("seen.png", "done")
    assert "running" in house.one.events(house.one.job("seen.png")["id"])
    house.mount()
    house.two.until(house.two.is_ready, "it sees it again")
