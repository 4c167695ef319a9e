"""The GPUs as the driver sees them (NVML): memory, load, temperature, power, at each scrape.

Without a driver there is nothing to tell, and nothing is told: a missing GPU is no zero. A GPU that
was there and does not answer any more is told as down. NVML needs no CUDA context, so asking costs
the card nothing.
"""

from collections.abc import Callable, Iterable, Iterator

import pynvml
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Read = Callable[[object], float]

_READINGS: dict[str, tuple[str, Read]] = {
    "i2vd_gpu_memory_used_bytes": (
        "Memory of a GPU that is in use, by any process.",
        lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(gpu).used,
    ),
    "i2vd_gpu_memory_total_bytes": (
        "Memory of a GPU.",
        lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(gpu).total,
    ),
    "i2vd_gpu_utilization_ratio": (
        "Share of the last moments in which a GPU was at work.",
        lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
    ),
    "i2vd_gpu_temperature_celsius": (
        "Temperature of a GPU's chip.",
        lambda gpu: pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
    ),
    "i2vd_gpu_power_watts": (
        "Electrical power that a GPU draws.",
        lambda gpu: pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
    ),
}
_UP = "i2vd_gpu_up"
_UP_HELP = "1 while a GPU answers, 0 when it was there and does not."


class GpuCollector(Collector):
    """All GPUs of this host. The labels are the driver's number and the card's name."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        try:
            pynvml.nvmlInit()
            for number in range(pynvml.nvmlDeviceGetCount()):
                gpu = pynvml.nvmlDeviceGetHandleByIndex(number)
                self._known[str(number)] = pynvml.nvmlDeviceGetName(gpu)
        except pynvml.NVMLError:
            pass  # no driver, or no GPU

    def describe(self) -> Iterable[Metric]:
        """The families without values, also where there is no GPU."""
        yield _family(_UP, _UP_HELP)
        for name, (help_text, _) in _READINGS.items():
            yield _family(name, help_text)

    def collect(self) -> Iterator[Metric]:
        """What the driver says now. A reading that a card does not offer is left out."""
        if not self._known:
            return
        up = _family(_UP, _UP_HELP)
        for labels in self._known.items():
            up.add_metric(labels, _memory_answers(labels[0]))
        yield up
        for name, (help_text, read) in _READINGS.items():
            family = _family(name, help_text)
            for labels in self._known.items():
                try:
                    family.add_metric(labels, read(_handle(labels[0])))
                except pynvml.NVMLError:
                    continue
            if family.samples:
                yield family


def _family(name: str, help_text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help_text, labels=["gpu", "name"])


def _handle(number: str) -> object:
    return pynvml.nvmlDeviceGetHandleByIndex(int(number))


def _memory_answers(number: str) -> bool:
    """Every card can tell its memory; one that fell off the bus cannot."""
    try:
        pynvml.nvmlDeviceGetMemoryInfo(_handle(number))
    except pynvml.NVMLError:
        return False
    return True
