"""What can go wrong in an attempt, told apart: no memory, a lost device, a refused request."""

import errno

import torch

_NO_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
_LOST = ("CUDA error", "CUDNN_STATUS_EXECUTION_FAILED", "CUBLAS_STATUS_EXECUTION_FAILED")

EXIT_DEVICE_LOST = 70
"""The child's exit code after an error that no later work on this device context survives."""


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


class Refused(Exception):
    """The request cannot be done as it is; another try would end the same."""


class Spoilt(Exception):
    """What came out is no clip; another try may help."""


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


def first_line(error: BaseException) -> str:
    """What an error says, in one line of at most 300 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
