"""Log output for people, for programs and for the journal."""

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from daemon.config.settings import Log
from daemon.telemetry import journal, logs
from rules.characters import has_unsafe


def fields_of(datagram: bytes) -> dict[str, bytes]:
    """Read an entry as journald does."""
    found = {}
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        if b"=" in line:
            name, _, value = line.partition(b"=")
        else:
            name, size = line, int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[8 + size + 1 :]
        found[name.decode()] = value
        datagram = rest
    return found


def written(capfd: pytest.CaptureFixture[str]) -> str:
    """What the log has written to stderr so far."""
    assert logs.flush()
    return capfd.readouterr().err


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True), st.text()))
def test_whatever_a_value_holds_the_journal_gets_it_back(fields: dict[str, str]) -> None:
    sent = fields_of(journal.entry(fields))
    assert sent == {name: text.encode(errors="replace") for name, text in fields.items()}


def test_an_entry_is_never_too_long_for_a_datagram() -> None:
    assert len(journal.entry({"MESSAGE": "x" * 10**6, "I2VD_PATH": "y" * 10**6})) < 40_000


@pytest.fixture
def journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Listen in place of journald, with a $JOURNAL_STREAM that matches stderr."""
    stderr = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{stderr.st_dev}:{stderr.st_ino}")
    monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "socket"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.settimeout(5)
        yield listener


def test_under_systemd_the_job_is_a_field(journald: socket.socket) -> None:
    logs.configure(Log())
    structlog.get_logger().warning("out of memory", job=17, path="a\nMESSAGE=forged\n.jpg")
    entry = fields_of(journald.recv(100_000))
    assert entry["MESSAGE"] == b'out of memory job=17 path="a\\nMESSAGE=forged\\n.jpg"'
    assert entry["PRIORITY"] == b"4"
    assert entry["SYSLOG_IDENTIFIER"] == b"i2vd"
    assert entry["I2VD_JOB"] == b"17"
    assert entry["I2VD_PATH"] == b"a\nMESSAGE=forged\n.jpg"


def test_a_traceback_is_part_of_the_message(journald: socket.socket) -> None:
    logs.configure(Log())
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger().exception("failed")
    message = fields_of(journald.recv(100_000))["MESSAGE"].decode()
    assert message.startswith("failed\nTraceback")
    assert message.endswith("ValueError: broken")


def test_without_journald_the_line_goes_to_stderr(
    journald: socket.socket, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = os.fstat(2)  # capfd has put another file there
    monkeypatch.setenv("JOURNAL_STREAM", f"{stderr.st_dev}:{stderr.st_ino}")
    logs.configure(Log())
    Path(str(journald.getsockname())).unlink()
    structlog.get_logger().info("ready")
    assert written(capfd) == "<6>ready\n"


def test_json_is_one_object_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(Log(format="json"))
    structlog.get_logger().info("queued", job=3, path='a"\n.jpg')
    (line,) = written(capfd).splitlines()
    assert json.loads(line) | {"timestamp": ""} == {
        "event": "queued",
        "job": 3,
        "level": "info",
        "path": 'a"\n.jpg',
        "timestamp": "",
    }


EVIL = [
    "a\n12:00:00 [error    ] the disk is full",
    "a\r\x1b[2K\x1b[31mred",
    "a\x9b31m\x07\x08",
    "a\u2028b\u202egpj.exe\x00\x7f",
    'a" level="error',
    os.fsdecode(b"\xff.jpg"),
]
"""Names and prompts that would like to be lines, colours or keys of their own."""


@pytest.mark.parametrize("evil", EVIL)
def test_on_a_terminal_no_name_forges_a_line_or_a_colour(
    evil: str, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure(Log(format="console"))
    structlog.get_logger().info("queued", path=evil, why=[evil], job=1)
    structlog.get_logger().info(evil, child="picture")
    logging.getLogger("a library").warning(evil)
    lines = written(capfd).split("\n")
    assert len(lines) == 4
    assert all(not has_unsafe(line) for line in lines)


@pytest.mark.parametrize("evil", EVIL)
def test_on_a_terminal_no_exception_forges_a_line(
    evil: str, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure(Log(format="console"))
    try:
        raise ValueError(evil)
    except ValueError:
        structlog.get_logger().exception("failed", path=evil)
    first, *others = written(capfd).rstrip("\n").split("\n")
    assert "failed" in first
    assert others[-1].startswith("    ")
    assert "ValueError" in "".join(others)
    assert all(line.startswith("    ") and not has_unsafe(line) for line in others)


@pytest.mark.parametrize("evil", EVIL)
def test_as_json_every_name_is_a_value(evil: str, capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure(Log(format="json"))
    structlog.get_logger().info("queued", path=evil)
    structlog.get_logger().info(evil, child="picture")
    said = written(capfd)
    assert said.isascii()
    first, second = map(json.loads, said.splitlines())
    assert (first["path"], second["event"]) == (evil, evil)
    assert first.keys() == {"event", "level", "path", "timestamp"}


@pytest.mark.parametrize("evil", EVIL)
def test_in_the_journal_every_name_is_a_field(evil: str, journald: socket.socket) -> None:
    logs.configure(Log())
    structlog.get_logger().info("queued", path=evil)
    entry = fields_of(journald.recv(100_000))
    assert entry.keys() == {"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "I2VD_PATH"}
    assert entry["I2VD_PATH"] == evil.encode(errors="replace")
    assert b"\n" not in entry["MESSAGE"]
    assert b"\x1b" not in entry["MESSAGE"]


def test_without_journald_no_message_becomes_two(
    journald: socket.socket, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{stderr.st_dev}:{stderr.st_ino}")
    logs.configure(Log())
    Path(str(journald.getsockname())).unlink()
    structlog.get_logger().info("a\n<0>forged")
    assert written(capfd) == "<6>a\\n<0>forged\n"


def test_the_journal_is_distinguished_from_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    assert not journal.is_stderr()
    monkeypatch.delenv("JOURNAL_STREAM")
    assert not journal.is_stderr()


def test_a_journald_that_stands_still_is_not_waited_for(journald: socket.socket) -> None:
    logs.configure(Log())
    log = structlog.get_logger()
    began = time.monotonic()
    for number in range(5000):
        log.info("job queued", job=number, path="x" * 1000)
    assert time.monotonic() - began < 5
    assert not logs.flush()
    found = fields_of(journald.recv(100_000))
    while found["MESSAGE"] != b"now":  # it goes on, and all that was kept comes in order
        if found["I2VD_JOB"] == b"2000":
            log.info("now")
        found = fields_of(journald.recv(100_000))
    assert logs.flush()


def test_a_journald_that_is_started_again_gets_the_next_line(
    journald: socket.socket, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    stderr = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{stderr.st_dev}:{stderr.st_ino}")
    logs.configure(Log())
    (tmp_path / "socket").unlink()
    structlog.get_logger().info("between")
    assert written(capfd) == "<6>between\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as again:
        again.bind(str(tmp_path / "socket"))
        again.settimeout(5)
        structlog.get_logger().info("after")
        assert fields_of(again.recv(100_000))["MESSAGE"] == b"after"
