"""The lock of a state folder: one holder, released with its process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.fs.lock import AlreadyRunning, Lock


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
