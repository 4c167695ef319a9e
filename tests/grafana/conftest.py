"""A real daemon to be scraped, and the programs that check what we ship for Grafana."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def scrape(tmp_path_factory) -> str:
    """What /metrics of a running daemon says. No picture has come, so no model is loaded."""
    folder = tmp_path_factory.mktemp("daemon")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = folder / "log"
    with (
        log.open("w") as said,
        subprocess.Popen(
            [sys.executable, "-m", "daemon", "run"],
            cwd=folder,
            stderr=said,
            env=os.environ | {"PYTHONPATH": str(ROOT), "I2VD_HTTP__LISTEN": f"127.0.0.1:{port}"},
        ) as daemon,
    ):
        try:
            until_ready(f"http://127.0.0.1:{port}/readyz", log)
            return read(f"http://127.0.0.1:{port}/metrics")
        finally:
            daemon.terminate()


def until_ready(url: str, log: Path) -> None:
    for _ in range(300):
        try:
            read(url)
            return
        except URLError:
            time.sleep(0.1)
    pytest.fail(f"the daemon did not become ready: {log.read_text()}")


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()
