"""GPU metrics from the driver (NVML): memory, load, temperature and power, read at each scrape.

Without a driver no series is exported, because a missing GPU is not a zero. A GPU that was found at
the start and no longer answers is exported as down. NVML needs no CUDA context, so reading it uses
no device memory.
"""

from collections.abc import Callable, Iterable, Iterator

import pynvml
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Read = Callable[[object], float]

_READINGS: dict[str, tuple[str, Read]] = {
    "i2vd_gpu_memory_used_bytes": (
        "GPU memory in use by all processes.",
        lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(gpu).used,
    ),
    "i2vd_gpu_memory_total_bytes": (
        "Total GPU memory.",
        lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(gpu).total,
    ),
    "i2vd_gpu_utilization_ratio": (
        "Share of time in which the GPU was busy, over the driver's last sample period.",
        lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
    ),
    "i2vd_gpu_temperature_celsius": (
        "Temperature of the GPU chip.",
        lambda gpu: pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU),
    ),
    "i2vd_gpu_power_watts": (
        "Power draw of the GPU.",
        lambda gpu: pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
    ),
}
_UP = "i2vd_gpu_up"
_UP_HELP = "1 if the GPU answers, 0 if it was found at the start and does not."


class GpuCollector(Collector):
    """Collector of all GPUs of this host; labels: the driver's index and the card's name."""

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
        """Return all families without samples, also on a host without a GPU."""
        yield _family(_UP, _UP_HELP)
        for name, (help_text, _) in _READINGS.items():
            yield _family(name, help_text)

    def collect(self) -> Iterator[Metric]:
        """Read the driver's current values; a reading that a card does not support is omitted."""
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
    """Return True if the memory can be read; only a card that fell off the bus fails this."""
    try:
        pynvml.nvmlDeviceGetMemoryInfo(_handle(number))
    except pynvml.NVMLError:
        return False
    return True
