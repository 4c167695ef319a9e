"""`pull` against a hub of our own: its protocol over HTTP, from a folder."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.checkpoint.download import LICENCE
from pipeline.request.presets import MICRO_FOLDER

pytestmark = pytest.mark.slow

_COMMIT = "1" * 40
_PULL = """
import sys
from pathlib import Path
from pipeline.checkpoint.download import DownloadFailed, pull
try:
    print(pull("someone/a-model", folder=Path(sys.argv[1]) if sys.argv[1:] else None))
except DownloadFailed as error:
    sys.exit(f"failed: {error}")
"""


def test_the_licence_conflict_is_told() -> None:
    assert "MIT" in LICENCE
    assert "NON-COMMERCIAL" in LICENCE


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Any]:
    folder = tmp_path / "hub"
    shutil.copytree(MICRO_FOLDER, folder)
    for file in folder.glob("*/*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
        file.write_bytes(b"the large variant, which nobody wants")
    (folder / "unet" / "model.bin").write_bytes(b"a pickle")

    published = {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }

    class Hub(BaseHTTPRequestHandler):
        asked: list[str] = []  # noqa: RUF012 - one list for all requests is the point
        revisions: list[str] = []  # noqa: RUF012 - the same

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path.startswith("/api/models/someone/a-model/revision/"):
                self.revisions.append(path.rpartition("/")[2])
                self.reply(json.dumps(self.info()).encode())
            elif path.startswith("/api/models/someone/a-model/tree/"):
                self.reply(json.dumps(self.tree()).encode())
            elif path.startswith(f"/someone/a-model/resolve/{_COMMIT}/"):
                name = path.split(f"{_COMMIT}/")[1]
                if self.command == "GET":
                    self.asked.append(name)
                data = (folder / name).read_bytes()
                self.reply(data, **{"ETag": f'"{hashlib.sha256(data).hexdigest()}"'})
            else:
                self.send_error(404)

        do_HEAD = do_GET  # noqa: N815 - the base class's way of naming

        def info(self) -> Any:
            files = [
                {"rfilename": name, "lfs": {"size": 1, "sha256": digest, "pointerSize": 1}}
                for name, digest in published.items()
            ]
            return {"id": "someone/a-model", "sha": _COMMIT, "siblings": files}

        def tree(self) -> list[Any]:
            return [
                {"type": "file", "path": str(f.relative_to(folder)), "size": f.stat().st_size}
                | {"oid": hashlib.sha1(f.read_bytes()).hexdigest()}
                for f in sorted(folder.rglob("*"))
                if f.is_file()
            ]

        def reply(self, data: bytes, **headers: str) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("X-Repo-Commit", _COMMIT)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    server.folder, server.asked = folder, Hub.asked  # type: ignore[attr-defined]
    server.revisions = Hub.revisions  # type: ignore[attr-defined]
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def pulled(hub: Any, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, for the hub's client reads its settings when it is imported."""
    return subprocess.run(
        [sys.executable, "-c", _PULL, *arguments],
        env=os.environ
        | {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(home)}
        | {"HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_only_what_is_loaded_is_fetched_and_then_found(hub: Any, tmp_path: Path) -> None:
    first = pulled(hub, tmp_path / "home")
    assert first.returncode == 0, first.stderr
    folder = Path(first.stdout.strip())
    assert len(list(folder.glob("*/*.fp16.safetensors"))) == 4
    assert sorted(hub.asked) == sorted(set(hub.asked))
    assert not [n for n in hub.asked if n.endswith((".bin", "model.safetensors"))]

    hub.asked.clear()
    again = pulled(hub, tmp_path / "home")
    assert again.stdout == first.stdout
    assert not [name for name in hub.asked if name.endswith(".safetensors")]

    code = (
        "from pipeline.checkpoint.layout import find; "
        "print(find('someone/a-model', small=True).folder)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert Path(found.stdout.strip()) == folder


def test_into_a_folder(hub: Any, tmp_path: Path) -> None:
    done = pulled(hub, tmp_path / "home", str(tmp_path / "model"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model/unet/diffusion_pytorch_model.fp16.safetensors").is_file()


def test_a_model_without_small_weights(hub: Any, tmp_path: Path) -> None:
    for file in hub.folder.glob("vae/*.fp16.safetensors"):
        file.unlink()
    failed = pulled(hub, tmp_path / "home")
    assert failed.returncode == 1
    assert "no fp16 safetensors for vae" in failed.stderr


def test_weights_that_are_not_the_published_ones_are_refused(hub: Any, tmp_path: Path) -> None:
    name = "unet/diffusion_pytorch_model.fp16.safetensors"
    weights = hub.folder / name
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"!")
    failed = pulled(hub, tmp_path / "home")
    assert failed.returncode == 1
    assert name in failed.stderr
    assert "damaged" in failed.stderr
    weights.write_bytes(whole)
    hub.asked.clear()
    again = pulled(hub, tmp_path / "home")
    assert again.returncode == 0, again.stderr
    assert hub.asked == [name], "the damaged one alone"


def test_a_named_commit_is_fetched_and_found_without_its_branch(hub: Any, tmp_path: Path) -> None:
    pin = (
        f"from pipeline.checkpoint import layout; layout.REVISIONS['someone/a-model'] = {_COMMIT!r}"
    )
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    find = "\nprint(layout.find('someone/a-model', small=True).folder)"
    done = subprocess.run(
        [sys.executable, "-c", f"{pin}\n{_PULL}{find}"],
        env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    fetched, found = done.stdout.splitlines()
    assert fetched == found
    assert set(hub.revisions) == {_COMMIT}, "never a branch"
