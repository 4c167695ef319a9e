"""Whoever reads the log cannot end the daemon, or make it wait."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.conftest import Open
from tests.system.studio import Studio, picture

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def running(studio: Studio, *redirections: str, **files: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run the daemon by a shell with these redirections, until the end of the test."""
    studio.variables()
    command = f"exec {sys.executable} -m {studio.program} run {' '.join(redirections)}"
    process = subprocess.Popen(
        ["bash", "-c", command], cwd=studio.root, env=studio.variables(), **files
    )  # fmt: skip
    try:
        end = time.monotonic() + studio.start_seconds
        while not studio.is_ready():
            assert process.poll() is None, f"it ended with {process.returncode}"
            assert time.monotonic() < end
            time.sleep(0.05)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def make_clips(studio: Studio, process: subprocess.Popen[bytes], count: int = 2) -> None:
    for number in range(count):
        studio.drop(f"{number}.png", picture(number))
    end = time.monotonic() + 60
    while len(studio.clips()) < count:
        assert process.poll() is None, f"it ended with {process.returncode}"
        assert time.monotonic() < end, studio.clips()
        assert studio.is_alive()
        time.sleep(0.05)


def stop(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(30)


@pytest.mark.parametrize(
    "redirection",
    ["2>/dev/full", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2>&1 | head -3", "2> >(head -c 100)"],
)
def test_a_log_that_cannot_be_written_ends_nothing(quick_in: Open, redirection: str) -> None:
    studio = quick_in()
    if "|" in redirection:
        read, write = os.pipe()
        head = subprocess.Popen(["head", "-3"], stdin=read, stdout=subprocess.DEVNULL)
        os.close(read)
        with running(studio, stdout=write, stderr=write) as process:
            os.close(write)
            make_clips(studio, process)
            assert head.wait(10) == 0
            assert studio.metric("i2vd_log_lines_lost_total") > 0
            assert stop(process) == 0
        return
    with running(studio, redirection) as process:
        make_clips(studio, process)
        if "full" in redirection:
            assert studio.metric("i2vd_log_lines_lost_total") > 3
        assert stop(process) == 0


def test_a_closed_stderr_is_not_the_queue(quick_in: Open) -> None:
    studio = quick_in()
    with running(studio, "<&- >&- 2>&-") as process:
        for descriptor in ("0", "1", "2"):
            opened = Path(f"/proc/{process.pid}/fd/{descriptor}").readlink()
            assert opened == Path("/dev/null")
        assert stop(process) == 0


def test_a_pipe_that_nobody_reads_holds_nothing_up(quick_in: Open) -> None:
    studio = quick_in(I2VD_LOG__LEVEL="debug")
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    filler = b"x" * 4096
    os.write(write, filler)
    with running(studio, stdout=write, stderr=write) as process:
        os.close(write)
        make_clips(studio, process)
        began = time.monotonic()
        assert stop(process) == 0
        assert time.monotonic() - began < 10
    os.close(read)


def test_what_was_lost_is_counted_once_lines_pass_again(quick_in: Open, tmp_path: Path) -> None:
    studio = quick_in()
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(small)], check=False
    )
    if mounted.returncode:
        pytest.skip("this test needs root")
    try:
        (small / "filler").write_bytes(b"x" * 4096)
        with running(studio, f"2>>{small / 'log'}") as process:
            make_clips(studio, process, 20)
            (small / "filler").unlink()
            end = time.monotonic() + 30
            while b"log lines lost" not in (small / "log").read_bytes():
                assert time.monotonic() < end
                studio.post("/api/rules/reload")
                time.sleep(0.2)
            assert stop(process) == 0
            text = (small / "log").read_text()
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert '"event": "log lines lost"' in text
    assert text.count("\n{") == text.count("{") - 1, "a torn line does not spoil the next one"


def test_a_terminal_that_closes_ends_nothing(quick_in: Open) -> None:
    studio = quick_in()
    ours, theirs = os.openpty()

    def read() -> None:
        with contextlib.suppress(OSError):
            while os.read(ours, 4096):
                pass

    reader = threading.Thread(target=read)

    def lead_the_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [sys.executable, "-m", studio.program, "run"],
        cwd=studio.root, env=studio.variables(), stdin=theirs, stdout=theirs, stderr=theirs,
        preexec_fn=lead_the_terminal,  # noqa: PLW1509
    )  # fmt: skip
    os.close(theirs)
    reader.start()
    try:
        end = time.monotonic() + 60
        while not studio.is_ready():
            assert time.monotonic() < end
            time.sleep(0.05)
        os.close(ours)
        make_clips(studio, process)
        assert stop(process) == 0
    finally:
        process.kill()
        process.wait()
        reader.join(10)


def heeds_signals(studio: Studio) -> bool:
    """Whether the process has a handler of SIGHUP, as the kernel says."""
    text = Path(f"/proc/{studio.pid}/status").read_text()
    (caught,) = [line.split()[1] for line in text.splitlines() if line.startswith("SigCgt")]
    return bool(int(caught, 16) & 1 << signal.SIGHUP - 1)


def test_reloads_while_it_starts_do_not_end_it(studio_in: Open) -> None:
    studio = studio_in().start(ready=False)
    studio.until(lambda: heeds_signals(studio), "its handlers are installed")
    assert not studio.log_tail().count("rules loaded")
    reloads = 0
    while not studio.is_ready():
        studio.signal(signal.SIGHUP)
        reloads += 1
        time.sleep(0.05)
        assert studio.running, studio.log_tail()
    assert reloads > 3, "the handlers come first"
    assert studio.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("delay", [0.0, 0.5, 1.0])
def test_a_stop_while_it_starts_is_a_clean_end(studio_in: Open, number: int, delay: float) -> None:
    studio = studio_in().start(ready=False)
    studio.until(lambda: heeds_signals(studio), "its handlers are installed")
    time.sleep(delay)
    studio.signal(number)
    assert studio.wait() == 0
    assert "Traceback" not in studio.log_tail()


def test_signals_are_heeded_while_the_queue_is_away(quick_in: Open) -> None:
    studio = quick_in()
    url = "postgresql+psycopg://nobody@127.0.0.1:1/none"
    studio.environment["I2VD_QUEUE__URL"] = url
    studio.start(ready=False)
    studio.until(lambda: "queue unavailable" in studio.log_tail(), "it waits for its queue")
    studio.signal(signal.SIGHUP)
    time.sleep(0.5)
    assert studio.running
    began = time.monotonic()
    studio.signal(signal.SIGTERM)
    assert studio.wait() == 0
    assert time.monotonic() - began < 5
