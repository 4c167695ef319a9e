"""Lock, systemd, metrics, folders, submit: the small files around the work."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from daemon.config.settings import Inbox, Settings
from daemon.fs.lock import AlreadyRunning, Lock
from daemon.jobs.queries import JobQueries
from daemon.jobs.store import JobStore
from daemon.storage.folders import create_folders
from daemon.telemetry import systemd
from daemon.telemetry.metrics import Metrics, free_bytes


def test_one_daemon_alone_holds_the_lock(tmp_path: Path) -> None:
    with Lock(tmp_path), pytest.raises(AlreadyRunning, match=str(os.getpid())):
        Lock(tmp_path)
    with Lock(tmp_path):
        pass


def test_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    code = f"import os; from pathlib import Path; from daemon.fs.lock import Lock; \
l = Lock(Path({str(tmp_path)!r})); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    with Lock(tmp_path):
        pass


def test_systemd_is_told_through_its_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        systemd.notify("READY=1", "STATUS=3 queued")
        assert listener.recv(1000) == b"READY=1\nSTATUS=3 queued"
        systemd.reloading()
        assert listener.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")


def test_without_systemd_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS"):
        monkeypatch.delenv(variable, raising=False)
    systemd.notify("READY=1")
    assert systemd.watchdog_interval() is None
    assert systemd.listening_socket() is None


def test_the_watchdog_is_answered_twice_as_often_as_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    assert systemd.watchdog_interval() == 30.0
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert systemd.watchdog_interval() is None


def test_metrics_of_the_ledger_survive_a_restart(ledger: JobStore, history: JobQueries) -> None:
    for _ in range(2):
        metrics = Metrics()
        metrics.watch_queue(history)
        text = generate_latest(metrics.registry).decode()
        families = {family.name: family for family in text_string_to_metric_families(text)}
        states = {s.labels["state"] for s in families["i2vd_jobs"].samples}
        assert states == {"queued", "running", "publishing", "done", "failed", "cancelled"}


def test_every_metric_has_help_and_our_prefix(history: JobQueries) -> None:
    metrics = Metrics()
    metrics.watch_queue(history)
    metrics.watch_gauge("i2vd_x", "Help.", ["a"], lambda: [(["b"], 1.0)])
    for family in metrics.registry.collect():
        assert family.name.startswith("i2vd_")
        assert family.documentation.endswith(".")


def test_free_space_that_cannot_be_told_is_not_zero(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "nowhere") is None
    assert (free_bytes(tmp_path) or 0) > 0


def settings_in(root: Path) -> Settings:
    roles = ("path", "outbox", "rules", "archive", "failed")
    inbox = Inbox(**{role: root / role for role in roles})  # type: ignore[arg-type]
    return Settings(state=root / "state", inbox=(inbox,))


def test_folders_are_made_once_with_a_first_rule(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    made = create_folders(settings)
    assert tmp_path / "path" in made
    assert (tmp_path / "rules" / "90-default.toml").is_file()
    assert create_folders(settings) == []


def test_an_emptied_rules_folder_stays_empty(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    create_folders(settings)
    (tmp_path / "rules" / "90-default.toml").unlink()
    create_folders(settings)
    assert list((tmp_path / "rules").iterdir()) == []
