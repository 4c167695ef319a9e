"""The log writer: bounded, in order, and never in the way."""

import fcntl
import os
import threading
import time
from pathlib import Path

import pytest
import structlog

from daemon.config.settings import Log
from daemon.telemetry import logs
from daemon.telemetry.log_writer import DescriptorWriter, LogStream, LogWriter


def test_lines_come_in_order_and_whole() -> None:
    read, write = os.pipe()
    writer = LogWriter()
    for number in range(1000):
        writer.put(DescriptorWriter(write), f"{number}\n".encode())
    assert writer.flush()
    assert os.read(read, 100_000).split() == [str(n).encode() for n in range(1000)]
    assert writer.lost == 0


@pytest.mark.parametrize("blocking", [True, False])
def test_a_reader_that_sleeps_costs_lines_and_no_time(blocking: bool) -> None:
    read, write = os.pipe()
    os.set_blocking(write, blocking)
    reports: list[int] = []
    writer = LogWriter(reports.append)
    to_pipe = DescriptorWriter(write)
    began = time.monotonic()
    for number in range(20_000):
        writer.put(to_pipe, f"{number:06}".encode() + b"x" * 1000 + b"\n")
    assert time.monotonic() - began < 5
    assert not writer.flush(0.1)
    lost = writer.lost
    assert 10_000 < lost < 20_000
    found = b""
    while not writer.flush(0.01):
        found += os.read(read, 1 << 20)
    os.set_blocking(read, False)
    with pytest.raises(BlockingIOError):
        while True:
            found += os.read(read, 1 << 20)
    lines = found.splitlines()
    assert len(lines) == 20_000 - lost
    assert {len(line) for line in lines} == {1006}
    assert reports == [lost]


def test_a_torn_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    log = tmp_path / "log"
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    write = DescriptorWriter(descriptor)
    write(b"first\n")
    real, calls = os.write, []

    def half(number: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) == 1:
            return real(number, data[:3])
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(OSError):
            write(b"second\n")
    write(b"third\n")
    os.close(descriptor)
    assert log.read_bytes() == b"first\nsec\nthird\n"


def test_whatever_a_way_out_raises_the_next_line_passes() -> None:
    found: list[bytes] = []
    reports: list[int] = []
    errors = [OSError(5, "EIO"), ValueError("closed"), BrokenPipeError(), MemoryError()]

    def write(line: bytes) -> None:
        if errors:
            raise errors.pop()
        found.append(line)

    writer = LogWriter(reports.append)
    for number in range(6):
        writer.put(write, b"%d" % number)
    assert writer.flush()
    assert found == [b"4", b"5"]
    assert (writer.lost, reports) == (4, [4])


def test_many_threads_may_log_at_once(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    writer, write = LogWriter(), DescriptorWriter(descriptor)

    def log(name: int) -> None:
        for number in range(200):
            writer.put(write, f"{name} {number}\n".encode())

    threads = [threading.Thread(target=log, args=[name]) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert writer.flush()
    os.close(descriptor)
    lines = (tmp_path / "log").read_text().splitlines()
    assert sorted(lines) == sorted(f"{n} {m}" for n in range(8) for m in range(200))


def test_what_is_printed_to_stderr_is_written_by_lines() -> None:
    found: list[bytes] = []
    stream = LogStream(LogWriter(), found.append, "ascii")
    print("caf\xe9", "\ud800", 3, file=stream)
    print("half", end="", file=stream)
    print(" a line\nand more", file=stream)
    end = time.monotonic() + 5
    while len(found) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    assert found == [b"caf\\xe9 \\ud800 3\n", b"half a line\n", b"and more\n"]


class Odd:
    """A value that cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


ODD_VALUES = [Odd(), nested(100_000), "\ud800", b"\xff", {1: 2}, float("nan"), {("a",): Odd()}]


@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.parametrize("number", range(len(ODD_VALUES)))
def test_no_value_harms_the_caller(
    form: str, number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure(Log.model_validate({"format": form}))
    structlog.get_logger().info("job queued", path="cat.png", odd=ODD_VALUES[number])
    structlog.get_logger().info("next")
    assert logs.flush()
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "job queued" in lines[0]


def test_a_full_disk_under_the_log_is_no_error_of_the_caller(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure(Log(format="json"))
    full = os.open("/dev/full", os.O_WRONLY)
    monkeypatch.setattr(logs, "_write_to_stderr", DescriptorWriter(full))
    before = logs.lines_lost()
    try:
        structlog.get_logger().info("lost")
    except OSError:
        pytest.fail("a log line was taken for a fault of the disk")
    logs.flush()
    assert logs.lines_lost() == before + 1
    os.close(full)


def test_a_pipe_is_written_also_if_it_is_small() -> None:
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(write, False)
    writer = LogWriter()
    writer.put(DescriptorWriter(write), b"x" * 50_000 + b"\n")
    found = b""
    while not found.endswith(b"\n"):
        found += os.read(read, 4096)
    assert len(found) == 50_001
