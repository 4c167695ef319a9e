"""GPU metrics: the driver's values, no series without a driver, down when a card is lost."""

from types import SimpleNamespace

import pynvml
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from daemon.devices import Card, memory_limit, read_card
from daemon.telemetry.gpu_metrics import GpuCollector


def scraped(gpus: GpuCollector) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(gpus)
    lines = generate_latest(registry).decode().splitlines()
    return {k: float(v) for k, _, v in (line.rpartition(" ") for line in lines if line[0] != "#")}


@pytest.fixture
def one_card(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The driver's functions, as on a host with one card; no machine of the tests has one."""
    here = SimpleNamespace(lost=False)

    def answer(value: object) -> object:
        def asked(*_: object) -> object:
            if here.lost:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
            return value

        return asked

    for name, value in {
        "nvmlInit": None,
        "nvmlDeviceGetCount": 1,
        "nvmlDeviceGetHandleByIndex": object(),
        "nvmlDeviceGetName": "NVIDIA GeForce RTX 4090",
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=5 * 10**9, total=24 * 10**9),
        "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=97),
        "nvmlDeviceGetTemperature": 71,
        "nvmlDeviceGetPowerUsage": 382_500,
    }.items():
        monkeypatch.setattr(pynvml, name, answer(value))
    return here


def test_a_card_is_reported_in_base_units(one_card: SimpleNamespace) -> None:
    labels = '{gpu="0",name="NVIDIA GeForce RTX 4090"}'
    assert scraped(GpuCollector()) == {
        f"i2vd_gpu_up{labels}": 1,
        f"i2vd_gpu_memory_used_bytes{labels}": 5e9,
        f"i2vd_gpu_memory_total_bytes{labels}": 24e9,
        f"i2vd_gpu_utilization_ratio{labels}": 0.97,
        f"i2vd_gpu_temperature_celsius{labels}": 71,
        f"i2vd_gpu_power_watts{labels}": 382.5,
    }


def test_a_lost_card_is_down_and_has_no_zeros(one_card: SimpleNamespace) -> None:
    gpus = GpuCollector()
    one_card.lost = True
    assert scraped(gpus) == {'i2vd_gpu_up{gpu="0",name="NVIDIA GeForce RTX 4090"}': 0}


def test_a_reading_that_the_card_does_not_offer_is_left_out(
    one_card: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetPowerUsage", refuse)
    names = {name.partition("{")[0] for name in scraped(GpuCollector())}
    assert "i2vd_gpu_power_watts" not in names
    assert "i2vd_gpu_temperature_celsius" in names


def test_without_a_driver_there_is_no_series(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    assert scraped(GpuCollector()) == {}


def test_a_card_is_known_by_its_device(
    one_card: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", asked.append)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", asked.append)
    assert read_card("cuda:0") == Card("NVIDIA GeForce RTX 4090", 24 * 10**9)
    assert read_card("cpu") is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8932")
    read_card("cuda:0")
    read_card("cuda:1")
    assert asked == [0, 3, "GPU-8932"]
    assert read_card("cuda:2") is None
    assert memory_limit("cuda:0", None) == 24 * 10**9
    assert memory_limit("cuda:0", 8 * 10**9) == 8 * 10**9
    assert memory_limit("cuda:0", 80 * 10**9) == 24 * 10**9
    assert memory_limit("cpu", None) is None
    one_card.lost = True
    assert read_card("cuda:0") is None
