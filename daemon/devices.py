"""Devices: which ones the settings mean, and the memory that clips may use on each."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pynvml


def resolve_devices(wanted: Iterable[str]) -> list[str]:
    """The devices to use: "auto" is every NVIDIA GPU that we may use, else the CPU."""
    found: list[str] = []
    for device in wanted:
        found += [device] if device != "auto" else _list_gpus() or ["cpu"]
    return found


def local_device(wanted: Iterable[str]) -> str:
    """For a command that makes a clip itself, also on a host that makes none for the queue."""
    return resolve_devices([*wanted] or ["auto"])[0]


def _list_gpus(folder: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """What the kernel shows, or as many as CUDA_VISIBLE_DEVICES leaves, which numbers them anew."""
    count = len(list(folder.glob("*")))
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        names = [name.strip() for name in visible.split(",")]
        count = min(count, next((n for n, x in enumerate(names) if x in ("", "-1")), len(names)))
    return [f"cuda:{number}" for number in range(count)]


class Card(NamedTuple):
    """A GPU's name and its memory in bytes."""

    name: str
    memory: int


def read_card(device: str) -> Card | None:
    """Of "cuda:N", which counts within CUDA_VISIBLE_DEVICES; None where no driver tells it."""
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
    """What may be used of a device's memory, under a limit if there is one; None: not counted."""
    there = read_card(device)
    known = (limit, there.memory if there else None)
    return min((each for each in known if each is not None), default=None)


def _visible(number: int) -> object:
    """The GPU that CUDA calls by that number."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    name = str(number) if visible is None else visible.split(",")[number].strip()
    if name.startswith("GPU-"):
        return pynvml.nvmlDeviceGetHandleByUUID(name)
    return pynvml.nvmlDeviceGetHandleByIndex(int(name))
