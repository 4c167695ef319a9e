"""Sandbox: the real daemon as its own process, in its own folder.

Used by the demo, the benchmarks and the tests. The daemon is started and stopped as systemd does.
Settings in the environment that belong to another daemon are not passed on.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import httpx2

from daemon.config.fields import CHILD_VARIABLES, CONFIG_VARIABLE
from daemon.config.settings import ENV_PREFIX

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.05
_FROM_SYSTEMD = ("JOURNAL_STREAM", "NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_")


class SandboxFailed(Exception):
    """The daemon failed; the message gives the reason."""


class Sandbox:
    """A folder with settings and rules, and a daemon that works in it.

    As a context manager, it stops the daemon on exit, or kills it if it does not stop.
    """

    start_seconds = 60.0
    """Limit for the daemon to become ready."""
    stop_seconds = 60.0
    """Limit for the daemon to end."""

    def __init__(
        self,
        root: Path,
        *,
        program: str = "daemon",
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        ends_with_parent: bool = False,
        timeout: float = 30.0,
    ) -> None:
        """`program` is a module, `prefix` a command that becomes it by exec.

        `timeout`: seconds within which each request is answered.
        """
        self.root = root
        self.program, self.prefix = program, prefix
        self.environment = dict(environment or {})
        self.config = root / "i2vd.toml"
        self.log_file = root / "daemon.log"
        self.inbox, self.outbox, self.archive, self.failed, self.rules = (
            root / name for name in ("inbox", "outbox", "archive", "failed", "rules")
        )
        self.port = free_port()
        url = f"http://127.0.0.1:{self.port}"
        self.http = httpx2.Client(base_url=url, timeout=timeout, trust_env=False)
        self._cwd, self._ends_with_parent = cwd, ends_with_parent
        self._process: subprocess.Popen[bytes] | None = None
        root.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.running:
                self.signal(signal.SIGTERM)
                with contextlib.suppress(SandboxFailed):
                    self.wait()
        finally:
            self.close()

    # --- settings and rules

    def settings(self, text: str) -> None:
        """Write the settings file."""
        self.config.write_text(text, encoding="utf-8")

    def rule(self, name: str, text: str) -> Path:
        """Write a rule file atomically."""
        self.rules.mkdir(exist_ok=True)
        part = self.rules / f".{name}"
        part.write_text(text, encoding="utf-8")
        return part.rename(self.rules / f"{name}.toml")

    # --- the process

    @property
    def pid(self) -> int:
        """Process id of the daemon."""
        return self._started().pid

    @property
    def running(self) -> bool:
        """True if the daemon has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, ready: bool = True) -> Self:
        """Start the daemon and wait until it is ready. Raises SandboxFailed."""
        if self._cwd is None and not self.config.exists():
            self.settings("")  # without a file the daemon would work in the current folder
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", self.program, "run"],
                cwd=self._cwd,
                env=self.variables(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent if self._ends_with_parent else None,  # noqa: PLW1509
            )
        if ready:
            self._wait_until_ready()
        return self

    def is_ready(self) -> bool:
        """Return True if /readyz answers 200."""
        return self._answers("/readyz")

    def is_alive(self) -> bool:
        """Return True if /healthz answers 200."""
        return self._answers("/healthz")

    def signal(self, number: int) -> None:
        """Send a signal to the daemon, not to its children."""
        self._started().send_signal(number)

    def wait(self, seconds: float | None = None) -> int:
        """Wait for the daemon's end and return its exit code. Raises SandboxFailed."""
        try:
            return self._started().wait(seconds or self.stop_seconds)
        except subprocess.TimeoutExpired:
            raise SandboxFailed(f"the daemon did not end\n{self.log_tail()}") from None

    def stop(self) -> int:
        """Stop the daemon as systemd would and return its exit code. Raises SandboxFailed."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """Kill the daemon as the kernel would."""
        self.signal(signal.SIGKILL)
        self.wait()

    def close(self) -> None:
        """Kill the daemon if it still runs, and close the connections."""
        self.http.close()
        if self.running:
            self.kill()

    def exit_code(self) -> int | None:
        """Exit code of the daemon; None if it was not started or still runs."""
        return None if self._process is None else self._process.poll()

    def log_tail(self, lines: int = 40) -> str:
        """Return the end of the daemon's log."""
        if not self.log_file.exists():
            return "(no log)"
        text = self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(["--- daemon.log", *text[-lines:]])

    def variables(self) -> dict[str, str]:
        """Environment of the daemon: this process's, without settings, and `environment`."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_FROM_SYSTEMD)
            and (not name.startswith(ENV_PREFIX) or name in CHILD_VARIABLES - {CONFIG_VARIABLE})
        }
        own = {f"{ENV_PREFIX}HTTP__LISTEN": f"127.0.0.1:{self.port}"}
        if self.config.exists():
            own[CONFIG_VARIABLE] = str(self.config.absolute())
        return kept | own | self.environment

    def _started(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None, "not started"
        return self._process

    def _answers(self, path: str) -> bool:
        try:
            return self.http.get(path).status_code == 200
        except httpx2.TransportError:
            return False

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + self.start_seconds
        while self.running and time.monotonic() < end:
            if self.is_ready():
                return
            time.sleep(_POLL_SECONDS)
        code = self.exit_code()
        outcome = "did not get ready" if code is None else f"ended with {code} before it was ready"
        raise SandboxFailed(f"the daemon {outcome}\n{self.log_tail()}")


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _end_with_parent() -> None:
    """End this process when its parent is killed (prctl(2), Linux only).

    Unsafe if other threads run; the demo and `bench timeline` have none yet.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
