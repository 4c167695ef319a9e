"""The memory model against a count: the worker's own code, in shapes of the published model.

A few shapes only, for each takes seconds; `python -m tests.bench.memory_count` counts all presets.
"""

from collections.abc import Iterator

import pytest
import torch

from pipeline.memory.dimensions import PUBLISHED, measure
from pipeline.memory.modes import Mode, Rung
from pipeline.memory.peak_memory import PeakMemory, peak
from pipeline.worker.model.loader import LoadedModel
from tests.bench.memory_count import count
from tests.published import networks, published

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shapes() -> Iterator[LoadedModel]:
    yield published("meta", torch.float16)


def test_the_published_dimensions_are_those_of_diffusers() -> None:
    found = networks()
    configs = {part: dict(found[part].config) for part in ("unet", "vae")}
    weights = {
        part: {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        for part, network in found.items()
    }
    assert measure(configs, weights) == PUBLISHED


@pytest.mark.parametrize(
    ("rung", "guidance"),
    [
        (Rung(Mode.RESIDENT, 640, 384, 16), 9.0),
        (Rung(Mode.RESIDENT, 256, 256, 8), 1.0),
        (Rung(Mode.CHUNKED, 640, 640, 16), 1.0),
        (Rung(Mode.OFFLOAD, 384, 384, 8), 1.0),
    ],
    ids=str,
)
def test_the_formula_is_within_five_percent_of_the_count(
    shapes: LoadedModel, rung: Rung, guidance: float
) -> None:
    counted = PeakMemory(*(witness.peak for witness in count(shapes, rung, guidance).values()))
    predicted = peak(rung, PUBLISHED, "float16", guided=guidance > 1)
    print(f"\n{rung}: counted {counted}, predicted {predicted}")
    assert predicted.most == pytest.approx(counted.most, rel=0.05)
    assert predicted.denoise == pytest.approx(counted.denoise, rel=0.05)
    assert predicted.decode == pytest.approx(counted.decode, rel=0.1)
    assert predicted.condition == pytest.approx(counted.condition, rel=0.1)
