"""The README's example of several hosts, run as it stands there.

Four machines at the README's addresses: `db` and `nas` are containers with a systemd, PostgreSQL
and an NFS server; `gpu1` and `gpu2` have kernels of their own, for the NFS client is in the kernel.
A stand-in makes the clips, for on such a kernel torch alone takes half a minute to load.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.film import film
from tests.system.booted import SOURCE, Machine
from tests.system.hosts import network
from tests.system.needs import needs
from tests.system.studio import picture

ROOT = Path(__file__).resolve().parents[2]
SECTION = (ROOT / "README.md").read_text().split("\n## Several hosts\n")[1].split("\n## ")[0]
HOSTS = ("gpu1", "gpu2")
ADDRESSES = {
    "db": "192.0.2.10", "nas": "192.0.2.20", "gpu1": "192.0.2.21", "gpu2": "192.0.2.22",
}  # fmt: skip

NFS = """\
NFS_CORE_PARAM { Protocols = 4; Enable_NLM = false; Enable_RQUOTA = false; }
NFSv4 { Graceless = true; Only_Numeric_Owners = true; }
EXPORT {
    Export_Id = 1; Path = /studio; Pseudo = /studio; Access_Type = RW; SecType = sys;
    Squash = Root_Squash; FSAL { Name = VFS; }
}
"""
EDITOR = """\
#!/bin/sh -e
# The person at the keyboard, where the README says sudoedit.
case $1 in
*fleet*) sed -i 's/^#\\([A-Z][A-Za-z]*=\\)/\\1/' "$1" ;;
*i2vd*) cat /root/i2vd.toml > "$1" ;;
esac
"""
STAND_IN = f"""\
[Service]
Environment=PYTHONPATH={SOURCE} PEER_FILM=/usr/local/share/film.mp4 PEER_STEP=1.5
ExecStart=
ExecStart=/opt/i2vd/bin/python -m tests.chaos.launch run --config /etc/i2vd/i2vd.toml
"""
NO_INDEX = (
    "PIP_CONFIG_FILE=/dev/null", "PIP_FIND_LINKS=", "PIP_NO_INDEX=1", "PIP_NO_BUILD_ISOLATION=0",
)  # fmt: skip
"""The machines have no way out: pip finds all in their environment."""
RULES = {
    "10-steady": '[match]\nnames = ["steady*"]\n[make]\nprompt = "steady"\npreset = "draft"\n',
    "90-default": '[make]\nprompt = "film"\npreset = "draft"\n',
}
PATIENCE = 90.0
"""Seconds, on kernels that are slow and a machine that may be busy."""


def block(after: str, language: str = "sh") -> str:
    """The first block of the section after some words."""
    found = re.search(rf"```{language}\n(.*?)```", SECTION.split(after, 1)[1], re.DOTALL)
    assert found is not None
    return found[1]


class Example:
    """The four machines."""

    def __init__(self, machines: dict[str, Machine], film: Path) -> None:
        self.db, self.nas = machines["db"], machines["nas"]
        self.hosts = {name: machines[name] for name in HOSTS}
        self._film = film
        self._count = 0

    # --- what the README says

    def set_up(self) -> None:
        """From the new machines to hosts that work."""
        with ThreadPoolExecutor() as pool:
            for begun in [pool.submit(self._set_up_database), pool.submit(self._set_up_share)]:
                begun.result()
            [*pool.map(self._set_up_host, self.hosts.values())]

    def _set_up_database(self) -> None:
        db = self.db
        # As a new Debian is, but not each image of a container.
        db.run("make-ssl-cert", "generate-default-snakeoil", "--force-overwrite")
        db.run("sed", "-i", "s/^ssl = off/ssl = on/", "/etc/postgresql/15/main/postgresql.conf")
        db.run("systemctl", "start", "postgresql")
        typed = "--pwprompt i2vd <<< $'PASSWORD\\nPASSWORD'"
        commands = block("On `db`:").replace("--pwprompt i2vd", typed)
        assert typed in commands
        db.run("bash", "-e", "-c", commands)

    def _set_up_share(self) -> None:
        self.nas.run("bash", "-e", "-c", block("On `nas`"))
        self.as_member("mkdir", "-m", "2750", "/studio/rules")
        for name, text in RULES.items():
            self.put(f"rules/{name}.toml", text.encode())
        self.nas.path("/etc/ganesha/ganesha.conf").write_text(NFS)
        self.nas.run("systemctl", "start", "nfs-ganesha")

    def _set_up_host(self, host: Machine) -> None:
        host.get_ready(ROOT)
        with host.path("/etc/hosts").open("a") as names:
            names.write(f"{ADDRESSES['nas']} nas.studio.lan\n")
        host.path("/root/i2vd.toml").write_text(block("On `gpu1` and `gpu2`", "toml"))
        shutil.copy(self._film, host.path("/usr/local/share/film.mp4"))
        stand_in = host.path("/etc/systemd/system/i2vd.service.d/stand-in.conf")
        stand_in.parent.mkdir()
        stand_in.write_text(STAND_IN)
        editor = host.path("/usr/local/bin/person")
        editor.write_text(EDITOR)
        editor.chmod(0o755)
        sudoers = host.path("/etc/sudoers.d/here")
        sudoers.write_text('Defaults env_keep += "PIP_* SYSTEMD_OFFLINE"\n')
        sudoers.chmod(0o440)
        installing, mounting = block("On `gpu1` and `gpu2`").split("sudo mkdir", 1)
        for run, environ, commands in (
            (host.run_here, (*NO_INDEX, "SYSTEMD_OFFLINE=1"), installing),
            (host.run, (), "systemctl daemon-reload"),  # which is passed over there
            (host.run, ("EDITOR=person",), f"sudo mkdir{mounting}"),
        ):
            run("env", "LANG=C", *environ, "bash", "-e", "-c", f"cd {SOURCE}\n{commands}")

    # --- what people do and see

    def as_member(self, *command: str) -> str:
        """What a member of the share's group gets to see of a command on the file server."""
        return self.nas.run("setpriv", "--reuid=961", "--regid=961", "--clear-groups", *command)

    def put(self, path: str, content: bytes) -> None:
        """A file appears on the share, whole at once."""
        self.nas.path("/var/tmp/new").write_bytes(content)
        self.as_member("cp", "/var/tmp/new", f"/studio/{Path(path).parent}/.new.part")
        self.as_member("mv", f"/studio/{Path(path).parent}/.new.part", f"/studio/{path}")

    def drop(self, name: str) -> None:
        """A picture of its own appears in the inbox."""
        self._count += 1
        self.put(f"inbox/{name}", picture(self._count))

    def share(self, folder: str) -> list[str]:
        """What a user sees in a folder of the share."""
        return self.as_member("ls", f"/studio/{folder}").split()

    def ask(self, by: str, call: str) -> Any:
        """What the API of a host answers."""
        return json.loads(self.hosts[by].run("curl", "-s", f"http://127.0.0.1:7860{call}"))

    def tell(self, by: str, call: str) -> None:
        """A command to the API of a host."""
        url = f"http://127.0.0.1:7860{call}"
        self.hosts[by].run("curl", "-s", "--fail", "-X", "POST", url)

    def hosts_seen(self, by: str) -> dict[str, str]:
        """The state of each host, as one tells it."""
        return {host["name"]: host["state"] for host in self.ask(by, "/api/hosts")}

    def job(self, by: str, path: str) -> dict[str, Any] | None:
        """The newest job of a picture, as one host tells it."""
        return next((job for job in self.ask(by, "/api/jobs") if job["path"] == path), None)

    def until_state(self, by: str, path: str, state: str) -> dict[str, Any]:
        """Wait until the newest job of a picture is in a state; that job."""
        end = time.monotonic() + PATIENCE
        while not (job := self.job(by, path)) or job["state"] != state:
            assert time.monotonic() < end, (path, job)
            time.sleep(0.5)
        return job


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    needs("ganesha.nfsd", package="nfs-ganesha nfs-ganesha-vfs")
    needs("mount.nfs", package="nfs-common")
    needs("sudo", package="sudo")
    mark = os.getpid()
    with ExitStack() as stack:
        wires = stack.enter_context(network(db=ADDRESSES["db"], nas=ADDRESSES["nas"]))
        for name in HOSTS:
            wires.plug(name, "192.0.2.1")
        db = Machine.booted(f"db-{mark}", within=wires.within("db"))
        share = ("--tmpfs=/studio", "--system-call-filter=open_by_handle_at")
        nas = Machine.booted(f"nas-{mark}", *share, within=wires.within("nas"))
        hosts = (
            Machine.with_kernel(f"{name}-{mark}", wires.hub, name, ADDRESSES[name])
            for name in HOSTS
        )
        with ThreadPoolExecutor() as pool:
            machines = pool.map(stack.enter_context, (db, nas, *hosts))
        clip = film(tmp_path_factory.mktemp("film") / "film.mp4")
        made = Example(dict(zip(ADDRESSES, machines, strict=True)), clip)
        made.set_up()
        yield made


def test_a_picture_on_the_share_is_made_once_by_one_of_the_hosts(example: Example) -> None:
    mounted = example.hosts["gpu1"].run("findmnt", "--noheadings", "-o", "FSTYPE", "/mnt/studio")
    assert mounted.split() == ["nfs4"]
    assert example.hosts_seen("gpu2") == {"gpu1": "working", "gpu2": "working"}
    example.drop("first.png")
    job = example.until_state("gpu1", "first.png", "done")
    assert job["owner"].startswith(HOSTS)
    assert job["result"]["clip"] == "/mnt/studio/outbox/first.mp4"
    assert example.until_state("gpu2", "first.png", "done")["id"] == job["id"]
    assert example.share("outbox") == ["first.mp4", "first.mp4.json"]


def test_a_drained_host_is_empty_and_the_other_goes_on(example: Example) -> None:
    host = example.hosts["gpu1"]
    host.run("i2vd", "drain", "gpu1")
    host.wait_for(lambda: example.hosts_seen("gpu2")["gpu1"] == "drained", PATIENCE)
    example.drop("second.png")
    assert example.until_state("gpu2", "second.png", "done")["owner"].startswith("gpu2")
    assert "gpu1  drained" in re.sub(" +", "  ", host.run("i2vd", "hosts"))
    example.tell("gpu1", "/api/hosts/gpu1/undrain")


def test_while_the_database_is_away_work_in_hand_is_finished_and_nothing_begun(
    example: Example,
) -> None:
    for name in ("steady1.png", "steady2.png"):
        example.drop(name)
    for name in ("steady1.png", "steady2.png"):
        example.until_state("gpu1", name, "running")
    example.db.run("systemctl", "stop", "postgresql")
    try:
        example.drop("later.png")
        for name, host in example.hosts.items():
            host.wait_for(lambda name=name: not example.ask(name, "/readyz")["ready"], PATIENCE)
            assert "queue" in str(example.ask(name, "/readyz")["problems"])
            assert "queue" in example.ask(name, "/api/status")["detail"]
            assert "intake paused" in host.run("journalctl", "-u", "i2vd", "-o", "cat", "-n", "30")
        assert "later.png" in example.share("inbox")
    finally:
        example.db.run("systemctl", "start", "postgresql")
    for name in ("steady1.png", "steady2.png"):
        assert example.until_state("gpu2", name, "done")["attempt"] == 1
    example.until_state("gpu2", "later.png", "done")


def test_the_database_is_backed_up_and_restored(example: Example) -> None:
    host, db = example.hosts["gpu1"], example.db
    example.tell("gpu1", "/api/pause")
    example.drop("waiting.png")
    example.until_state("gpu1", "waiting.png", "queued")
    host.run("bash", "-e", "-c", block("Backup of the database"))
    example.tell("gpu1", "/api/resume")
    example.until_state("gpu1", "waiting.png", "done")
    stop = re.search(r"`(sudo systemctl stop .*?)`", SECTION)
    assert stop is not None
    for each in example.hosts.values():
        each.run("bash", "-e", "-c", stop[1])
    shutil.copy(host.path("/var/backups/i2vd.dump"), db.path("/var/tmp/i2vd.dump"))
    db.run("bash", "-e", "-c", block("To restore it"))
    with ThreadPoolExecutor() as pool:
        start = ("systemctl", "start", "i2vd.service")
        [*pool.map(lambda each: each.run(*start), example.hosts.values())]
    example.tell("gpu1", "/api/resume")  # so it was when it was backed up
    example.until_state("gpu1", "waiting.png", "cancelled")
    example.drop("last.png")
    example.until_state("gpu2", "last.png", "done")
    assert [clip for clip in example.share("outbox") if "waiting" in clip] == [
        "waiting.mp4", "waiting.mp4.json",
    ]  # fmt: skip
