"""A real daemon that has made clips, scraped by a real Prometheus with i2vd's configuration."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from daemon.cli.sandbox import free_port
from tests.system.needs import needs
from tests.system.studio import Studio, picture

GRAFANA = Path(__file__).resolve().parents[2] / "grafana"


@pytest.fixture(scope="session")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Prometheus"]:
    """Scrape a daemon that has made three clips and rejected a picture."""
    studio = Studio(tmp_path_factory.mktemp("grafana") / "studio")
    server = Prometheus(studio.root / "prometheus", studio.port)
    try:
        studio.start()
        server.start()
        for number in range(3):
            studio.drop(f"{number}.png", picture(number))
        studio.drop("broken.png", picture(9)[:100])
        for number in range(3):
            studio.until_settled(f"{number}.png", "done")
        studio.until_settled("broken.png", "failed")
        time.sleep(3)  # seen by two more scrapes
        server.scrape = httpx2.get(f"http://127.0.0.1:{studio.port}/metrics", trust_env=False).text
        yield server
    finally:
        server.stop()
        studio.close()


@pytest.fixture(scope="session")
def scrape(prometheus: "Prometheus") -> str:
    """Return the text of that daemon's /metrics."""
    return prometheus.scrape


class Prometheus:
    """Server of Debian's package with prometheus.yml, another port and a shorter interval."""

    def __init__(self, folder: Path, target: int) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.scrape = ""
        self._folder = folder
        folder.mkdir()
        text = (GRAFANA / "prometheus.yml").read_text()
        text = text.replace("127.0.0.1:7860", f"127.0.0.1:{target}").replace("15s", "1s")
        (folder / "prometheus.yml").write_text(text)
        (folder / "alerts.yml").write_text((GRAFANA / "alerts.yml").read_text())
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = needs("prometheus", package="prometheus")
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    program,
                    "--config.file=prometheus.yml",
                    "--storage.tsdb.path=data",
                    f"--web.listen-address={self.url.removeprefix('http://')}",
                ],
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + 30
        while not self._answers():
            assert time.monotonic() < end, (self._folder / "log").read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def ask(self, expr: str) -> list[dict[str, Any]]:
        """Return the current result of a query: series with labels and value."""
        answer = httpx2.get(f"{self.url}/api/v1/query", params={"query": expr}, trust_env=False)
        assert answer.status_code == 200, f"{expr}: {answer.text}"
        return list(answer.json()["data"]["result"])

    def _answers(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/-/ready", trust_env=False).status_code == 200
        except httpx2.TransportError:
            return False
