from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.children import protocol
from pipeline.memory.modes import Mode
from pipeline.request.presets import MICRO
from pipeline.worker.model.loader import LoadedModel, load_model
from tests.pipeline.worker.kit import Peer, a_picture, a_spec


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def micro() -> LoadedModel:
    """The embedded checkpoint on the CPU in float32."""
    model = load_model(MICRO, "cpu", "float32", on_step=lambda: None)
    model.load_unet()
    return model


@pytest.fixture
def png(tmp_path: Path) -> Path:
    path = tmp_path / "clean.png"
    a_picture().save(path)
    return path


Order = Callable[..., protocol.Generate]


@pytest.fixture
def order(tmp_path: Path, png: Path) -> Order:
    """Build a request; keywords override the Spec, and set fields that it lacks."""

    def make(**changes: Any) -> protocol.Generate:
        rung = {k: changes.pop(k) for k in ("mode", "rung_width", "rung_height") if k in changes}
        picture = changes.pop("picture", png)
        spec = a_spec(**changes)
        staging = tmp_path / "staging"
        staging.mkdir(exist_ok=True)
        return protocol.Generate(
            job="job",
            spec=spec,
            mode=rung.get("mode", Mode.RESIDENT),
            width=rung.get("rung_width", spec.width),
            height=rung.get("rung_height", spec.height),
            frames=spec.frames,
            picture=str(picture),
            staging=str(staging),
        )

    return make


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[..., Peer]]:
    """Start worker processes; each is killed at the end of its test."""
    started: list[Peer] = []

    def start(**environment: str) -> Peer:
        started.append(Peer(tmp_path, **environment))
        return started[-1]

    yield start
    for peer in started:
        peer.end()
