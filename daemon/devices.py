"""Devices: resolve the settings' device names, and the memory limit of each device."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pynvml


def resolve_devices(names: Iterable[str]) -> list[str]:
    """Return the devices to use: "auto" is every visible NVIDIA GPU, else the CPU."""
    found: list[str] = []
    for device in names:
        found += [device] if device != "auto" else _list_gpus() or ["cpu"]
    return found


def local_device(names: Iterable[str]) -> str:
    """Return one device for a command, also on a host that runs no jobs of the queue."""
    return resolve_devices([*names] or ["auto"])[0]


def _list_gpus(folder: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """List the GPUs that the driver shows, renumbered within CUDA_VISIBLE_DEVICES."""
    count = len(list(folder.glob("*")))
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        entries = [entry.strip() for entry in visible.split(",")]
        end = next((n for n, x in enumerate(entries) if x in ("", "-1")), len(entries))
        count = min(count, end)
    return [f"cuda:{number}" for number in range(count)]


class Card(NamedTuple):
    """A GPU's name and its memory in bytes."""

    name: str
    memory: int


def read_card(device: str) -> Card | None:
    """Return the card of "cuda:N", numbered within CUDA_VISIBLE_DEVICES; None without a driver."""
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return None
    try:
        pynvml.nvmlInit()
        gpu = _visible(int(number or 0))
        return Card(
            str(pynvml.nvmlDeviceGetName(gpu)), int(pynvml.nvmlDeviceGetMemoryInfo(gpu).total)
        )
    except (pynvml.NVMLError, ValueError, IndexError):
        return None


def memory_limit(device: str, limit: int | None) -> int | None:
    """Return the smaller of a device's memory and the limit, in bytes; None if both are unknown."""
    card = read_card(device)
    known = (limit, card.memory if card else None)
    return min((each for each in known if each is not None), default=None)


def _visible(number: int) -> object:
    """Return the NVML handle of the GPU with this CUDA number."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    name = str(number) if visible is None else visible.split(",")[number].strip()
    if name.startswith("GPU-"):
        return pynvml.nvmlDeviceGetHandleByUUID(name)
    return pynvml.nvmlDeviceGetHandleByIndex(int(name))
