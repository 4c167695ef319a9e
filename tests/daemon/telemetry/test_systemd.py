"""Notifications to systemd, against a real datagram socket."""

import os
import socket
import time
from pathlib import Path

import pytest

from daemon.telemetry import systemd


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
    assert systemd.listening_sockets() == []


def test_the_watchdog_is_answered_twice_as_often_as_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    assert systemd.watchdog_interval() == 30.0
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert systemd.watchdog_interval() is None


@pytest.mark.parametrize("name", ["a\nREADY=1.png", "a\u2028b\x1b[31m", os.fsdecode(b"caf\xe9")])
def test_no_name_in_the_status_is_another_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        systemd.notify(f"STATUS=#1 {name * 200}")
        (line,) = listener.recv(10_000).decode().split("\n")
        assert line.startswith("STATUS=#1 a" if name[0] == "a" else "STATUS=#1 caf")
        assert line.isprintable()


def test_a_listener_that_does_not_read_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
            filler.setblocking(False)
            with pytest.raises(BlockingIOError):
                while True:
                    filler.sendto(b"x", str(tmp_path / "notify"))
        began = time.monotonic()
        systemd.notify("STATUS=3 queued")
        assert time.monotonic() - began < 2
