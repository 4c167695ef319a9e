"""Limits of the image child: memory, pixels, output."""

import ctypes
import errno
import mmap
import os
import resource
from pathlib import Path

from PIL import Image

MEMORY = "I2VD_PICTURE_MEMORY"
"""Environment variable: address-space limit of this process in MiB."""

PIXELS = "I2VD_PICTURE_PIXELS"
"""Environment variable: maximum pixels of a picture."""

DEFAULT_MEMORY = 2048
"""Default address-space limit in MiB."""

_errno = ctypes.CDLL(None).__errno_location
_errno.restype = ctypes.POINTER(ctypes.c_int)
"""C's errno: shows a failed allocation that some decoders report as a broken file."""

_DEFAULT_PIXELS = 200_000_000
_MAX_OUTPUT_BYTES = 256 * 2**20
_SPARE_BYTES = 4 * 2**20
"""Left out when the rest of the limit is probed, for what the probe itself needs."""


def limit_from_environment() -> None:
    """Set the limits that the parent passed, or the default ones."""
    limit_resources(
        memory=int(os.environ.get(MEMORY, DEFAULT_MEMORY)),
        pixels=int(os.environ.get(PIXELS, _DEFAULT_PIXELS)),
    )


def limit_resources(memory: int, pixels: int) -> None:
    """Set permanent limits: `memory` in MiB of address space, `pixels` per picture."""
    for kind, most in (
        (resource.RLIMIT_AS, memory * 2**20),
        (resource.RLIMIT_FSIZE, _MAX_OUTPUT_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)  # noqa: PLW2901
        resource.setrlimit(kind, (most, most))
    Image.MAX_IMAGE_PIXELS = pixels


def clear_errno() -> None:
    """Forget earlier failed allocations, before a decoder is called."""
    _errno()[0] = 0


def is_out_of_memory(error: Exception) -> bool:
    """Return True if a decoder failed for lack of memory, whatever error it raised."""
    return _errno()[0] == errno.ENOMEM or "memory" in str(error).lower()


def memory_limit() -> int:
    """Return the limit of this process's address space in MiB."""
    return resource.getrlimit(resource.RLIMIT_AS)[0] // 2**20


def machine_lacks_memory() -> bool:
    """Return True if the system refuses even the address space that this process's limit leaves.

    Then not the picture is too large, but the machine is out of memory; except where all of its
    memory is less than the limit, because waiting would not help.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    left = memory_limit() * 2**20 - pages * mmap.PAGESIZE - _SPARE_BYTES
    if left <= 0:
        return False
    try:
        mmap.mmap(-1, left).close()  # is counted, but never touched
    except (OSError, MemoryError):
        return left < _memory_of_machine()
    return False


def _memory_of_machine() -> int:
    """Return the bytes that the system would ever allocate."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    sizes = {name: int(value.split()[0]) * 1024 for name, value in (x.split(":") for x in lines)}
    strict = Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2"
    return sizes["CommitLimit"] if strict else sizes["MemTotal"] + sizes["SwapTotal"]
