"""The service on a machine whose systemd really runs, installed as systemd/README.md says."""

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.booted import SOURCE, Machine

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "systemd/README.md").read_text()
SERVICE = (ROOT / "systemd/i2vd.service").read_text()

_LANDLOCK = "--system-call-filter=landlock_create_ruleset landlock_restrict_self"
"""The container of systemd 252 forbids it; a machine does not."""


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A booted machine on which i2vd was installed as systemd/README.md says."""
    install = re.search(r"^## Install\n.*?```sh\n(.*?)```", README, re.DOTALL | re.M)
    with Machine.booted(f"i2vd{os.getpid()}", _LANDLOCK) as machine:
        machine.get_ready(ROOT)
        machine.run("useradd", "alice")
        machine.run("sh", "-e", "-c", f"cd {SOURCE}\n{install[1]}")
        machine.run("usermod", "--append", "--groups", "i2vd", "alice")
        yield machine


def drop(machine, name, **keys):
    """The sample landscape under a name, with settings of its own."""
    sidecar = "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
    machine.path(f"/srv/i2vd/inbox/{name}.toml").write_text(sidecar)
    shutil.copyfile(ROOT / "daemon/samples/landscape.jpg", machine.path(f"/var/tmp/{name}"))
    machine.run("mv", f"/var/tmp/{name}", f"/srv/i2vd/inbox/{name}")


def denoising(machine):
    """Wait until a job is being denoised, and return the unit's status line."""
    machine.wait_for(lambda: "denoise" in machine.shown("StatusText")["StatusText"], 90)
    return machine.shown("StatusText")["StatusText"]


def journal(machine, since=None):
    """What the service told, by all its processes or since one of them started."""
    of = [f"_PID={since['MainPID']}"] if since else []
    return machine.run("journalctl", "-u", "i2vd", "-o", "cat", *of)


def job(machine, picture):
    """Number of the newest job of a picture."""
    jobs = json.loads(machine.run("i2vd", "jobs", "--json"))
    return str(next(job["id"] for job in jobs if job["path"] == picture))


@contextlib.contextmanager
def drop_in(machine, text):
    """Within, the service's unit has some lines more."""
    file = machine.path("/run/systemd/system/i2vd.service.d/test.conf")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    machine.run("systemctl", "daemon-reload")
    try:
        yield
    finally:
        file.unlink()
        machine.run("systemctl", "daemon-reload")


def sandboxed(machine, command, folder="/var/lib/i2vd"):
    """What another command prints in the service's sandbox. Raises CalledProcessError."""
    left_out = r"^(ExecReload|Requires|Restart|StartLimit\w+)=.*\n"
    unit = re.sub(left_out, "", SERVICE, flags=re.MULTILINE).replace("=notify", "=oneshot")
    for key, value in (("ExecStart", command), ("WorkingDirectory", folder)):
        unit = re.sub(rf"^{key}=.*$", f"{key}={value}", unit, flags=re.MULTILINE)
    probe = machine.path("/run/systemd/system/i2vd-probe.service")
    probe.parent.mkdir(exist_ok=True)
    probe.write_text(unit)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "i2vd-probe.service")
    return probed(machine)


def probed(machine):
    """The last that a command in the sandbox printed."""
    return machine.run("journalctl", "-u", "i2vd-probe", "-o", "cat", "-n", "8")


def has_clip(machine, name):
    return machine.path(f"/srv/i2vd/outbox/{name}.mp4").exists()


def test_the_installation_turns_a_picture_into_a_clip(machine):
    machine.wait_for(lambda: has_clip(machine, "landscape"), 120)
    assert "landscape.jpg" in machine.run("i2vd", "jobs")


def test_a_start_ends_when_the_daemon_is_ready(machine):
    told = machine.shown("ActiveState", "Type", "StatusText", "NRestarts")
    assert told == {
        "ActiveState": "active", "Type": "notify", "StatusText": "0 queued", "NRestarts": "0",
    }  # fmt: skip
    status = machine.run("systemctl", "status", "--no-pager", "i2vd.service")
    assert 'Status: "0 queued"' in status
    assert "TriggeredBy" in status


def test_http_comes_by_the_inherited_socket(machine):
    """The service has no network: only what systemd handed over can be reached, from outside."""
    assert '"ready":true' in machine.run("curl", "-s", "http://127.0.0.1:7860/readyz")
    inside = ("nsenter", "--net", "-t", machine.shown("MainPID")["MainPID"])
    with pytest.raises(subprocess.CalledProcessError):
        machine.run(*inside, "curl", "-s", "http://127.0.0.1:7860/readyz")


def test_status_shows_the_job_in_hand(machine):
    drop(machine, "long.jpg", preset="standard", steps=100)
    told = denoising(machine)
    assert re.fullmatch(r"0 queued; #\d+ long\.jpg: denoise \d+/100(, \d+ s left)?", told)


def test_a_killed_worker_is_replaced_and_the_service_goes_on(machine):
    denoising(machine)
    pid = machine.shown("MainPID")
    machine.run("pkill", "-KILL", "-f", "pipeline.worker")
    machine.wait_for(lambda: "child lost" in journal(machine), 20)
    assert "denoise" in denoising(machine)  # once more, by a new child
    assert machine.shown("MainPID") == pid


def test_a_hung_daemon_is_started_again_by_the_watchdog(machine):
    """SIGSTOP: the process is there, and does nothing."""

    def wait_for_start(number):
        machine.wait_for(
            lambda: (
                machine.shown("NRestarts", "ActiveState")
                == {"NRestarts": number, "ActiveState": "active"}
            ),
            60,
        )

    signal = ("systemctl", "kill", "--kill-whom=main", "i2vd.service")
    with drop_in(machine, "[Service]\nWatchdogSec=3\nTimeoutAbortSec=1\n"):
        machine.run(*signal, "--signal=KILL")  # a restart would wait for the long job
        wait_for_start("1")
        denoising(machine)
    # A process keeps the watchdog that it was started with; the one after it has the unit's own.
    assert machine.shown("WatchdogUSec") == {"WatchdogUSec": "3s"}
    machine.run(*signal, "--signal=STOP")
    wait_for_start("2")
    assert machine.shown("WatchdogUSec") == {"WatchdogUSec": "1min"}
    assert "Watchdog timeout" in machine.run("journalctl", "-u", "i2vd", "-n", "50")
    machine.run("systemctl", "reset-failed", "i2vd.service")


def test_a_stop_lets_the_running_attempt_finish(machine):
    denoising(machine)  # the long job, for it was lost in no restart
    machine.run("i2vd", "cancel", job(machine, "long.jpg"))
    drop(machine, "short.jpg", preset="standard", steps=20)
    machine.wait_for(lambda: "short.jpg" in machine.shown("StatusText")["StatusText"], 60)
    denoising(machine)
    machine.run("systemctl", "stop", "i2vd.service")
    assert has_clip(machine, "short")
    assert machine.shown("Result") == {"Result": "success"}
    machine.run("systemctl", "start", "i2vd.service")


def test_out_of_memory_costs_a_child_and_never_the_daemon(machine):
    machine.run("systemctl", "restart", "i2vd.service")
    pid = machine.shown("MainPID")
    machine.run("systemctl", "set-property", "--runtime", "i2vd.service", "MemoryMax=300M")
    drop(machine, "heavy.jpg", preset="draft")
    machine.wait_for(lambda: "child lost" in journal(machine, since=pid), 60)
    machine.run("systemctl", "set-property", "--runtime", "i2vd.service", "MemoryMax=infinity")
    machine.wait_for(lambda: has_clip(machine, "heavy"), 120)
    assert machine.shown("MainPID") == pid


def test_an_upgrade_keeps_queue_settings_and_rules(machine):
    config, rules = machine.path("/etc/i2vd/i2vd.toml"), machine.path("/srv/i2vd/rules")
    config.write_text(config.read_text() + "# mine\n")
    (rules / "20-ocean-waves.toml").unlink()
    before = machine.run("i2vd", "jobs", "--json")
    pid = machine.shown("MainPID")
    machine.make("install")
    assert machine.shown("MainPID") != pid
    assert machine.run("i2vd", "jobs", "--json") == before
    assert config.read_text().endswith("# mine\n")
    assert not (rules / "20-ocean-waves.toml").exists()


def test_a_killed_daemon_is_started_again(machine):
    machine.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", "i2vd.service")
    machine.wait_for(lambda: machine.shown("NRestarts")["NRestarts"] == "1", 20)
    machine.wait_for(lambda: machine.shown("ActiveState")["ActiveState"] == "active", 20)
    assert machine.metric("i2vd_ready") == 1


def test_a_member_of_the_group_drops_a_picture_and_takes_the_clip(machine):
    machine.copy(ROOT / "daemon/samples/person.jpg", "/var/tmp")
    as_alice = ("runuser", "-u", "alice", "--", "sh", "-c")
    machine.run(*as_alice, "umask 077; cp /var/tmp/person.jpg /srv/i2vd/inbox/meadow.jpg")
    machine.wait_for(lambda: has_clip(machine, "meadow"), 90)
    clip = machine.run(*as_alice, "cat /srv/i2vd/outbox/meadow.mp4.json && ls -l /srv/i2vd/outbox")
    assert '"requested"' in clip


def test_the_journal_follows_one_job(machine):
    number = job(machine, "meadow.jpg")
    told = machine.run("journalctl", f"I2VD_JOB={number}", "-o", "json").splitlines()
    entries = [json.loads(line) for line in told]
    assert entries[0]["MESSAGE"].startswith("job queued ")
    assert entries[0]["PRIORITY"] == "6"
    assert {entry["_SYSTEMD_UNIT"] for entry in entries} == {"i2vd.service"}
    assert {entry.get("I2VD_PATH", "meadow.jpg") for entry in entries} == {"meadow.jpg"}
    assert any(entry["MESSAGE"].startswith("job done ") for entry in entries)


def test_the_picture_is_archived_whoever_owns_it(machine):
    machine.wait_for(lambda: machine.path("/srv/i2vd/archive/meadow.jpg").exists(), 5)


def test_reload_keeps_the_last_good_rules(machine):
    broken = machine.path("/srv/i2vd/rules/50-broken.toml")
    broken.write_text("prompt = 'in no section'\n")
    machine.run("systemctl", "reload", "i2vd.service")
    machine.wait_for(lambda: machine.metric("i2vd_rules_last_reload_successful") == 0, 10)
    broken.unlink()
    machine.run("systemctl", "reload", "i2vd.service")
    machine.wait_for(lambda: machine.metric("i2vd_rules_last_reload_successful") == 1, 10)
    assert machine.shown("ActiveState") == {"ActiveState": "active"}


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
    """What a broken decoder could do."""
    machine.run("chmod", "777", str(Path(place).parent))  # it is not the modes that refuse
    with contextlib.nullcontext() if writable else pytest.raises(subprocess.CalledProcessError):
        sandboxed(machine, f"touch {place}")
    assert machine.path(place).exists() == writable
    if not writable:
        assert f"cannot touch '{place}': Read-only file system" in probed(machine)


@pytest.mark.parametrize(
    "folder", ["/var/lib/i2vd", "/srv/i2vd/outbox", "/tmp", "/var/tmp", "/dev/shm"]
)
def test_what_the_service_has_written_is_not_run(machine, folder):
    """The kernel cache alone is left out: test_the_service_may_build_and_keep_kernels."""
    machine.run("mkdir", "-p", folder)
    with pytest.raises(subprocess.CalledProcessError):
        sandboxed(machine, f"sh -c 'cp /bin/true {folder}/x && echo copied && exec {folder}/x'")
    told = probed(machine)
    assert "copied" in told
    assert f"{folder}/x: Permission denied" in told


def test_a_token_that_only_root_can_read_comes_as_a_credential(machine):
    config, token = machine.path("/etc/i2vd/i2vd.toml"), machine.path("/etc/i2vd/token")
    good = config.read_text()
    token.write_text("0123456789abcdef")
    token.chmod(0o600)
    given = "/run/credentials/i2vd.service/token"
    config.write_text(good.replace("[http]\n", f'[http]\ntoken_file = "{given}"\n'))
    url = "http://127.0.0.1:7860/api/status"
    with drop_in(machine, (ROOT / "systemd/drop-ins/secrets.conf").read_text()):
        machine.run("systemctl", "restart", "i2vd.service")
        answer = machine.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url)
        assert answer == "401"
        bearer = "Authorization: Bearer 0123456789abcdef"
        assert "queued" in machine.run("curl", "-s", "-H", bearer, url)
        with pytest.raises(subprocess.CalledProcessError):
            machine.run("runuser", "-u", "alice", "--", "cat", given)
    config.write_text(good)
    machine.run("systemctl", "restart", "i2vd.service")


def test_http_comes_by_a_unix_socket_for_a_group(machine):
    snippet = re.search(r"```ini\n(\[Socket\].*?)```", README, re.DOTALL)[1]
    file = machine.path("/run/systemd/system/i2vd.socket.d/test.conf")
    file.parent.mkdir(parents=True)
    file.write_text(snippet.replace("ListenStream=\n", ""))  # beside the port
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "stop", "i2vd.service", "i2vd.socket")
    machine.run("systemctl", "start", "i2vd.socket", "i2vd.service")
    ask = ("curl", "-s", "--unix-socket", "/run/i2vd.sock", "http://localhost/readyz")
    assert '"ready":true' in machine.run("runuser", "-u", "alice", "--", *ask)
    assert '"ready":true' in machine.run("curl", "-s", "http://127.0.0.1:7860/readyz")
    with pytest.raises(subprocess.CalledProcessError):
        machine.run("runuser", "-u", "nobody", "--", *ask)


def test_pictures_are_decoded_in_a_sandbox_within_the_services(machine):
    """The unit's list of system calls lets a process lock itself down further."""
    machine.run("systemctl", "restart", "i2vd.service")
    pid = machine.shown("MainPID")
    machine.wait_for(lambda: "picture sandbox" in journal(machine, since=pid), 30)
    assert "picture sandbox ready" in journal(machine, since=pid)
    with drop_in(machine, "[Service]\nSystemCallFilter=~seccomp landlock_create_ruleset\n"):
        machine.run("systemctl", "restart", "i2vd.service")
        pid = machine.shown("MainPID")
        machine.wait_for(lambda: "picture sandbox" in journal(machine, since=pid), 30)
        assert "picture sandbox incomplete" in journal(machine, since=pid)
        machine.copy(ROOT / "daemon/samples/person.jpg", "/var/tmp")
        machine.run("mv", "/var/tmp/person.jpg", "/srv/i2vd/inbox/barely.jpg")
        machine.wait_for(lambda: has_clip(machine, "barely"), 120)
    machine.run("systemctl", "restart", "i2vd.service")


def test_the_service_may_build_and_keep_kernels(machine):
    told = sandboxed(machine, "/opt/i2vd/bin/python -m tests.pipeline.worker.once", SOURCE)
    folder = re.search(r"^(/var/cache/i2vd/compiled/i2vd-torch-\S+) at work$", told, re.M)[1]
    assert list(machine.path(folder).rglob("*.so"))


def test_stop_is_clean(machine):
    machine.run("systemctl", "stop", "i2vd.socket", "i2vd.service")
    told = machine.shown("ActiveState", "Result", "ExecMainStatus")
    assert told == {"ActiveState": "inactive", "Result": "success", "ExecMainStatus": "0"}
    assert "daemon stopped" in machine.run("journalctl", "-u", "i2vd", "-o", "cat", "-n", "3")


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


def test_uninstalling_keeps_what_is_the_users(machine):
    machine.make("uninstall")
    for kept in (
        "/etc/i2vd/i2vd.toml",
        "/var/lib/i2vd/queue.sqlite",
        "/srv/i2vd/outbox/meadow.mp4",
    ):
        assert machine.path(kept).exists()
    assert not machine.path("/opt/i2vd").exists()
    assert machine.shown("LoadState") == {"LoadState": "not-found"}
