"""What can go wrong in an attempt, told apart: no memory, a lost device, a refused request."""

import errno
import re
from typing import NamedTuple

import torch

from pipeline.quality import Flaw, Measurements

_NO_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
_LOST = (
    "CUDA error",
    "CUDA driver error",
    "Triton Error [CUDA]",
    "CUDNN_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUBLAS_STATUS_INTERNAL_ERROR",
    "CUBLAS_STATUS_NOT_INITIALIZED",
)
"""Words of errors after which the context is of no use: illegal access, assert, launch failure,
ECC, a card off the bus. A few are harmless, but not worth telling apart: a new process costs
seconds."""

_SIZE = r"([\d.]+) (bytes|[KMG]iB)"
_FIGURES = re.compile(
    rf"Tried to allocate {_SIZE}.*?{_SIZE} is allocated by PyTorch.*?{_SIZE} is reserved by",
    re.DOTALL,
)
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class SettingsRefused(Exception):
    """The request cannot be done as it is; another try would end the same."""


class QualityFailure(Exception):
    """What came out is no clip; another seed or a wider type may help."""

    def __init__(self, flaw: Flaw, figures: Measurements | None = None) -> None:
        super().__init__(flaw.reason)
        self.flaw = flaw
        self.figures = figures


class UnusableFile(Exception):
    """The MP4 is not what was written; another try may help."""


class Cancelled(Exception):
    """The parent gave the clip up."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the device or on the host.

    cuBLAS, cuDNN and the CPU's allocator say it in the words of a plain RuntimeError.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _NO_MEMORY)


def is_device_lost(error: BaseException) -> bool:
    """Whether the device's context is gone, so that only a new process can go on."""
    if is_out_of_memory(error):
        return False
    if isinstance(error, torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _LOST)


def is_disk(error: BaseException) -> bool:
    """Whether a folder could not be written: full, over quota, read-only, broken."""
    return isinstance(error, OSError) and error.errno in _DISK


class MemoryShortage(NamedTuple):
    """What the allocator told of its memory, in bytes."""

    requested: int
    allocated: int
    reserved: int


def parse_shortage(error: BaseException) -> MemoryShortage | None:
    """The figures in the message of CUDA's allocator, which are those of the moment it gave up."""
    found = _FIGURES.search(str(error))
    if found is None:
        return None
    asked, used, idle = (int(float(found[n]) * _UNITS[found[n + 1]]) for n in (1, 3, 5))
    return MemoryShortage(asked, used, used + idle)


def first_line(error: BaseException) -> str:
    """What an error says, in one line of at most 300 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
