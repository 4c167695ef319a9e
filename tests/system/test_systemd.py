"""The units and what goes with them, held against systemd's own tools."""

import contextlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from daemon import settings
from tests.system.booted import Machine
from tests.system.needs import needs

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "systemd"
SERVICE = UNITS / "i2vd.service"

WORST_EXPOSURE = 0.5


def told_by(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )


def verify(folder: Path, service: str) -> subprocess.CompletedProcess[str]:
    """systemd-analyze on both units; i2vd itself need not be installed for it."""
    analyze = needs("systemd-analyze", package="systemd")
    stand_in = shutil.which("true")
    files = [folder / "i2vd.service", folder / "i2vd.socket"]
    files[0].write_text(service.replace("/opt/i2vd/bin/i2vd", stand_in))
    shutil.copy(UNITS / "i2vd.socket", files[1])
    # Without --recursive-errors=no a misspelt key is told but does not count.
    return told_by(analyze, "verify", "--man=no", "--recursive-errors=no", *files)


def test_units_are_clean(tmp_path):
    result = verify(tmp_path, SERVICE.read_text())
    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("OOMPolicy=", "OOMPolicies=", "Unknown key 'OOMPolicies'"),
        ("KillMode=mixed", "KillMode=mixt", "mixt"),
        ("[Install]", "[Instal]", "Unknown section 'Instal'"),
    ],
)
def test_a_misspelt_unit_is_found(tmp_path, right, wrong, told):
    text = SERVICE.read_text()
    assert right in text
    result = verify(tmp_path, text.replace(right, wrong))
    assert result.returncode != 0
    assert told in result.stdout


def test_exposure_is_small():
    analyze = needs("systemd-analyze", package="systemd")
    result = told_by(analyze, "security", "--offline=yes", "--threshold=100", SERVICE)
    level = re.search(r"Overall exposure level for i2vd.service: ([0-9.]+)", result.stdout)
    assert level, result.stdout
    assert float(level[1]) <= WORST_EXPOSURE


def test_stop_leaves_time_for_the_grace():
    seconds = re.search(r"^TimeoutStopSec=(\d+)min$", SERVICE.read_text(), re.MULTILINE)
    grace = settings.load(UNITS / "i2vd.toml").stop_grace
    assert int(seconds[1]) * 60 >= grace + 30


def test_user_and_group_are_made(tmp_path):
    sysusers = needs("systemd-sysusers", package="systemd")
    (tmp_path / "etc").mkdir()
    result = told_by(sysusers, f"--root={tmp_path}", UNITS / "i2vd.sysusers")
    assert result.returncode == 0, result.stdout
    assert "/var/lib/i2vd" in (tmp_path / "etc/passwd").read_text()
    assert "i2vd" in (tmp_path / "etc/group").read_text()


def test_folders_are_made(tmp_path):
    tmpfiles = needs("systemd-tmpfiles", package="systemd")
    # systemd 252 looks for users on this machine even under --root: the folders are made ours.
    text = (UNITS / "i2vd.tmpfiles").read_text().replace(":i2vd:", f":{os.getuid()}:")
    text = re.sub(r"^(d \S+ +\d+) \S+ \S+", r"\1 - -", text, flags=re.MULTILINE)
    given = tmp_path / "i2vd.conf"
    given.write_text(text)
    result = told_by(tmpfiles, "--create", f"--root={tmp_path}", given)
    assert result.returncode == 0, result.stdout
    modes = {p.name: oct(p.stat().st_mode)[-4:] for p in (tmp_path / "srv/i2vd").iterdir()}
    assert modes == {
        "inbox": "2770",
        "outbox": "2750",
        "archive": "2770",
        "failed": "2770",
        "rules": "2750",
    }


# --- a systemd that really runs


@pytest.fixture(scope="module")
def machine():
    """A booted machine on which i2vd is installed and runs."""
    with Machine.booted(f"i2vd{os.getpid()}", ROOT) as machine:
        machine.install(UNITS)
        machine.copy(ROOT / "rules/demo", "/srv/i2vd/rules")
        machine.run("useradd", "--groups", "i2vd", "alice")
        machine.run("systemctl", "enable", "--now", "i2vd.service")
        yield machine


@pytest.mark.slow
def test_a_start_ends_when_the_daemon_is_ready(machine):
    told = machine.shown("ActiveState", "Type", "StatusText", "NRestarts")
    assert told == {
        "ActiveState": "active", "Type": "notify", "StatusText": "0 queued", "NRestarts": "0",
    }  # fmt: skip
    status = machine.run("systemctl", "status", "--no-pager", "i2vd.service")
    assert 'Status: "0 queued"' in status
    assert "TriggeredBy" in status


@pytest.mark.slow
def test_http_comes_by_the_inherited_socket(machine):
    """The service has no network: only what systemd handed over can be reached, from outside."""
    assert '"ready":true' in machine.run("curl", "-s", "http://127.0.0.1:7860/readyz")
    inside = ("nsenter", "--net", "-t", machine.shown("MainPID")["MainPID"])
    with pytest.raises(subprocess.CalledProcessError):
        machine.run(*inside, "curl", "-s", "http://127.0.0.1:7860/readyz")


@pytest.mark.slow
def test_a_killed_daemon_is_started_again(machine):
    machine.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", "i2vd.service")
    machine.wait_for(lambda: machine.shown("NRestarts")["NRestarts"] == "1", 20)
    machine.wait_for(lambda: machine.shown("ActiveState")["ActiveState"] == "active", 20)
    assert machine.metric("i2vd_ready") == 1


@pytest.mark.slow
def test_a_member_of_the_group_drops_a_picture_and_takes_the_clip(machine):
    machine.copy(ROOT / "daemon/samples/cat.jpg", "/var/tmp")
    as_alice = ("runuser", "-u", "alice", "--", "sh", "-c")
    machine.run(*as_alice, "umask 077; cp /var/tmp/cat.jpg /srv/i2vd/inbox/")
    machine.wait_for(lambda: machine.path("/srv/i2vd/outbox/cat.mp4").exists(), 90)
    clip = machine.run(*as_alice, "cat /srv/i2vd/outbox/cat.mp4.json && ls -l /srv/i2vd/outbox")
    assert '"asked"' in clip
    entries = machine.run("journalctl", "-u", "i2vd", "-o", "cat", "--grep", '"job": 1\\b')
    assert json.loads(entries.splitlines()[0])["event"] == "queued"


@pytest.mark.slow
def test_the_picture_is_archived_whoever_owns_it(machine):
    machine.wait_for(lambda: machine.path("/srv/i2vd/archive/cat.jpg").exists(), 5)


@pytest.mark.slow
def test_reload_keeps_the_last_good_rules(machine):
    broken = machine.path("/srv/i2vd/rules/50-broken.toml")
    broken.write_text("prompt = 'in no section'\n")
    machine.run("systemctl", "reload", "i2vd.service")
    machine.wait_for(lambda: machine.metric("i2vd_rules_last_reload_successful") == 0, 10)
    broken.unlink()
    machine.run("systemctl", "reload", "i2vd.service")
    machine.wait_for(lambda: machine.metric("i2vd_rules_last_reload_successful") == 1, 10)
    assert machine.shown("ActiveState") == {"ActiveState": "active"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "writable"),
    [
        ("/var/lib/i2vd/x", True),
        ("/var/cache/i2vd/x", True),
        ("/srv/i2vd/outbox/x", True),
        ("/srv/i2vd/rules/x", False),
        ("/etc/i2vd/x", False),
        ("/opt/i2vd/x", False),
        ("/run/x", False),
        ("/var/x", False),
    ],
)
def test_the_service_writes_to_its_folders_and_nowhere_else(machine, place, writable):
    """The same sandbox with another command in it: what a broken decoder could do."""
    machine.run("chmod", "777", str(Path(place).parent))  # it is not the modes that refuse
    left_out = r"^(ExecStartPre|ExecReload|Requires|Restart|StartLimit\w+)=.*\n"
    unit = re.sub(left_out, "", SERVICE.read_text(), flags=re.MULTILINE)
    unit = unit.replace("Type=notify", "Type=oneshot")
    unit = re.sub(r"^ExecStart=.*$", f"ExecStart=touch {place}", unit, flags=re.MULTILINE)
    probe = machine.path("/run/systemd/system/i2vd-probe.service")
    probe.parent.mkdir(exist_ok=True)
    probe.write_text(unit)
    machine.run("systemctl", "daemon-reload")
    with contextlib.nullcontext() if writable else pytest.raises(subprocess.CalledProcessError):
        machine.run("systemctl", "start", "i2vd-probe.service")
    assert machine.path(place).exists() == writable
    if not writable:
        told = machine.run("journalctl", "-u", "i2vd-probe", "-o", "cat", "-n", "8")
        assert f"cannot touch '{place}': Read-only file system" in told


@pytest.mark.slow
def test_stop_is_clean(machine):
    machine.run("systemctl", "stop", "i2vd.socket", "i2vd.service")
    told = machine.shown("ActiveState", "Result", "ExecMainStatus")
    assert told == {"ActiveState": "inactive", "Result": "success", "ExecMainStatus": "0"}
    last = machine.run("journalctl", "-u", "i2vd", "-o", "cat", "-n", "3")
    assert '"event": "stopped"' in last


@pytest.mark.slow
def test_a_broken_configuration_does_not_start(machine):
    config = machine.path("/etc/i2vd/i2vd.toml")
    good = config.read_text()
    config.write_text(good.replace("state =", "stat ="))
    with pytest.raises(subprocess.CalledProcessError):
        machine.run("systemctl", "start", "i2vd.service")
    told = machine.run("journalctl", "-u", "i2vd", "-o", "cat", "-n", "20")
    assert "unknown key 'stat'; did you mean 'state'?" in told
    machine.run("systemctl", "stop", "i2vd.service")
    config.write_text(good)
