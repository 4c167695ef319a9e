"""The devices that the settings mean, told without a driver's library."""

import os
from collections.abc import Iterable
from pathlib import Path


def devices(wanted: Iterable[str]) -> list[str]:
    """The devices to use: "auto" is every NVIDIA GPU that we may use, else the CPU."""
    found: list[str] = []
    for device in wanted:
        found += [device] if device != "auto" else _cards() or ["cpu"]
    return found


def device_here(wanted: Iterable[str]) -> str:
    """For a command that makes a clip itself, also on a host that makes none for the queue."""
    return devices([*wanted] or ["auto"])[0]


def _cards(folder: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """What the kernel shows, or as many as CUDA_VISIBLE_DEVICES leaves, which numbers them anew."""
    count = len(list(folder.glob("*")))
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        names = [name.strip() for name in visible.split(",")]
        count = min(count, next((n for n, x in enumerate(names) if x in ("", "-1")), len(names)))
    return [f"cuda:{number}" for number in range(count)]
