"""What the log looks like to people, to programs and to the journal."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from daemon import journal, log
from daemon.settings import Log


@pytest.fixture(autouse=True)
def _structlog_as_before() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


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


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True), st.text()))
def test_whatever_a_value_holds_the_journal_gets_it_back(fields: dict[str, str]) -> None:
    sent = fields_of(journal.entry(fields))
    assert sent == {name: text.encode(errors="replace") for name, text in fields.items()}


def test_an_entry_is_never_too_long_for_a_datagram() -> None:
    assert len(journal.entry({"MESSAGE": "x" * 10**6, "I2VD_PATH": "y" * 10**6})) < 40_000


@pytest.fixture
def journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket in place of journald's, and a stderr that it is said to own."""
    told = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{told.st_dev}:{told.st_ino}")
    monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "socket"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.settimeout(5)
        yield listener


def test_under_systemd_the_job_is_a_field(journald: socket.socket) -> None:
    log.configure(Log())
    structlog.get_logger().warning("out of memory", job=17, path="a\nMESSAGE=forged\n.jpg")
    entry = fields_of(journald.recv(100_000))
    assert entry["MESSAGE"] == b'out of memory job=17 path="a\\nMESSAGE=forged\\n.jpg"'
    assert entry["PRIORITY"] == b"4"
    assert entry["SYSLOG_IDENTIFIER"] == b"i2vd"
    assert entry["I2VD_JOB"] == b"17"
    assert entry["I2VD_PATH"] == b"a\nMESSAGE=forged\n.jpg"


def test_a_traceback_is_part_of_the_message(journald: socket.socket) -> None:
    log.configure(Log())
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
    told = os.fstat(2)  # capfd has put another file there
    monkeypatch.setenv("JOURNAL_STREAM", f"{told.st_dev}:{told.st_ino}")
    log.configure(Log())
    Path(str(journald.getsockname())).unlink()
    structlog.get_logger().info("ready")
    assert capfd.readouterr().err == "<6>ready\n"


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(Log(format="json"))
    structlog.get_logger().info("queued", job=3, path='a"\n.jpg')
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line) | {"timestamp": ""} == {
        "event": "queued",
        "job": 3,
        "level": "info",
        "path": 'a"\n.jpg',
        "timestamp": "",
    }


def test_the_journal_is_told_from_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    assert not journal.is_stderr()
    monkeypatch.delenv("JOURNAL_STREAM")
    assert not journal.is_stderr()
