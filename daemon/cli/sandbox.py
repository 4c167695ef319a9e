"""A real daemon as a process of its own, in a folder of its own: for the demo and for benches."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2

_PR_SET_PDEATHSIG = 1
_STARTS_WITHIN = 60.0
_ENDS_WITHIN = 60.0

_SETTINGS = """\
# Written by `i2vd {command}`: the embedded defaults, on a port of its own.
[http]
listen = "127.0.0.1:{port}"

[[inbox]]
settle = 0.5
"""


class TrialFailed(Exception):
    """The daemon did not do what it was started for; the message says why."""


@dataclass(frozen=True)
class Trial:
    """A daemon that is ready, its folder and settings, and a client of its API."""

    folder: Path
    config: Path
    api: httpx2.Client
    process: "subprocess.Popen[bytes]"

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None


@contextlib.contextmanager
def trial(folder: Path, command: str, env: Mapping[str, str] | None = None) -> Iterator[Trial]:
    """Within, the daemon runs; then it is stopped as systemd would stop it.

    `command` is whose folder it is, `env` what is set for it. Raises TrialFailed.
    """
    (folder / "inbox").mkdir(parents=True, exist_ok=True)
    port = _free_port()
    config = folder / "i2vd.toml"
    config.write_text(_SETTINGS.format(command=command, port=port), encoding="utf-8")
    with _process(config, folder / "daemon.log", env or {}) as process:
        base = f"http://127.0.0.1:{port}"
        with httpx2.Client(base_url=base, timeout=30, trust_env=False) as api:
            started = Trial(folder, config, api, process)
            _wait_until_ready(started)
            yield started


@contextlib.contextmanager
def _process(
    config: Path, log: Path, env: Mapping[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("ab") as out:
        command = [sys.executable, "-m", "daemon", "run", "--config", str(config)]
        process = subprocess.Popen(
            command,
            stderr=out,
            stdout=out,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **env},
            preexec_fn=_end_with_parent,  # noqa: PLW1509 (no other thread runs yet)
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _end_with_parent() -> None:
    """However the command ends, its daemon shall not stay (prctl(2), Linux only)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _wait_until_ready(daemon: Trial) -> None:
    end = time.monotonic() + _STARTS_WITHIN
    while time.monotonic() < end and daemon.runs:
        with contextlib.suppress(httpx2.TransportError):
            if daemon.api.get("/readyz").status_code == 200:
                return
        time.sleep(0.1)
    log = daemon.folder / "daemon.log"
    last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
    raise TrialFailed("the daemon did not get ready:\n" + "\n".join(last))
