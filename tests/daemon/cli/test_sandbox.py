"""The sandbox: what reaches its daemon, and how its ends are reported."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from daemon.cli.sandbox import Sandbox, SandboxFailed


def test_settings_of_another_daemon_do_not_reach_the_sandbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("I2VD_QUEUE__URL", "postgresql://production/queue")
    monkeypatch.setenv("I2VD_CONFIG", "/etc/i2vd/i2vd.toml")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("I2VD_TORCH_THREADS", "3")
    monkeypatch.setenv("PATH", "/somewhere")
    with Sandbox(tmp_path, environment={"PATH": "/elsewhere"}) as sandbox:
        found = sandbox.variables()
        assert not found.keys() & {"I2VD_QUEUE__URL", "I2VD_CONFIG", "NOTIFY_SOCKET"}
        assert found["I2VD_TORCH_THREADS"] == "3"
        assert found["PATH"] == "/elsewhere"
        assert found["I2VD_HTTP__LISTEN"] == f"127.0.0.1:{sandbox.port}"
        sandbox.settings("")
        assert sandbox.variables()["I2VD_CONFIG"] == str(tmp_path / "i2vd.toml")


def test_a_daemon_that_ends_at_its_start_is_reported_with_its_log(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as sandbox:
        sandbox.settings("no_such_setting = 1\n")
        with pytest.raises(SandboxFailed, match=r"ended with 2 .*\n(.*\n)*.*no_such_setting"):
            sandbox.start()
        assert not sandbox.running


@pytest.mark.slow
def test_a_sandbox_stops_its_daemon_on_leaving(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as sandbox:
        sandbox.settings("[[inbox]]\nstability_delay = 0.2\n")
        sandbox.rule("90-default", '[make]\nprompt = "still"\npreset = "draft"\n')
        pid = sandbox.start().pid
        assert sandbox.is_ready()
    assert sandbox.exit_code() == 0
    assert not Path(f"/proc/{pid}").exists()
    assert '"daemon stopped"' in sandbox.log_tail()


@pytest.mark.slow
def test_a_sandbox_ends_with_its_parent_if_asked(tmp_path: Path) -> None:
    code = """
import os, pathlib, signal, sys
from daemon.cli.sandbox import Sandbox
sandbox = Sandbox(pathlib.Path(sys.argv[1]), ends_with_parent=True).start()
print(sandbox.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    parent = subprocess.run(
        [sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True, check=False
    )
    assert parent.returncode == -signal.SIGKILL
    daemon = Path("/proc", parent.stdout.strip())
    end = time.monotonic() + 30
    while daemon.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert (tmp_path / "inbox").is_dir()  # it worked there, not in the current folder
