"""Errors of an attempt, and their classification: out of memory, lost device, disk, refused."""

import errno
import re
from typing import NamedTuple

import torch

from pipeline.quality import Flaw, Measurements

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
_DEVICE_LOST = (
    "CUDA error",
    "CUDA driver error",
    "Triton Error [CUDA]",
    "CUDNN_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUBLAS_STATUS_INTERNAL_ERROR",
    "CUBLAS_STATUS_NOT_INITIALIZED",
)
"""Messages after which the CUDA context is unusable: illegal access, assert, launch failure, ECC,
a GPU off the bus. A few are harmless, but a new process costs only seconds."""

_SIZE = r"([\d.]+) (bytes|[KMG]iB)"
_SHORTAGE = re.compile(
    rf"Tried to allocate {_SIZE}.*?{_SIZE} is allocated by PyTorch.*?{_SIZE} is reserved by",
    re.DOTALL,
)
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class SettingsRefused(Exception):
    """The request is invalid for this model; a retry would fail again."""


class QualityFailure(Exception):
    """The result failed the quality check; another seed or a wider type may help."""

    def __init__(self, flaw: Flaw, figures: Measurements | None = None) -> None:
        super().__init__(flaw.reason)
        self.flaw = flaw
        self.figures = figures


class UnusableFile(Exception):
    """The MP4 differs from what was written; a retry may help."""


class Cancelled(Exception):
    """The parent cancelled the clip."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if memory ran out, on the device or on the host.

    cuBLAS, cuDNN and the CPU allocator raise a plain RuntimeError, so its message is matched.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _OUT_OF_MEMORY)


def is_device_lost(error: BaseException) -> bool:
    """Return True if the device context is lost, so that a new process is needed."""
    if is_out_of_memory(error):
        return False
    if isinstance(error, torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _DEVICE_LOST)


def is_disk(error: BaseException) -> bool:
    """Return True if a disk is full, over quota, read-only or broken."""
    return isinstance(error, OSError) and error.errno in _DISK


class MemoryShortage(NamedTuple):
    """Figures of the CUDA allocator at an out-of-memory error, in bytes."""

    requested: int
    allocated: int
    reserved: int


def parse_shortage(error: BaseException) -> MemoryShortage | None:
    """Parse the message of the CUDA allocator; its figures are those at the failed allocation."""
    found = _SHORTAGE.search(str(error))
    if found is None:
        return None
    requested, allocated, idle = (int(float(found[n]) * _UNITS[found[n + 1]]) for n in (1, 3, 5))
    return MemoryShortage(requested, allocated, allocated + idle)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 300 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
