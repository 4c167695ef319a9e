"""Limits of the image child: memory, pixels, files."""

import ctypes
import errno
import os
import resource

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
_MAX_DESCRIPTORS = 32


def limit_from_environment() -> None:
    """Set the limits that the parent passed, or the default ones."""
    limit_resources(
        memory=int(os.environ.get(MEMORY, DEFAULT_MEMORY)),
        pixels=int(os.environ.get(PIXELS, _DEFAULT_PIXELS)),
    )


def limit_resources(memory: int, pixels: int) -> None:
    """Set permanent limits: `memory` in MiB of address space, `pixels` per picture.

    No file can grow, not even one that the sandbox would let it open. CPU time is limited by the
    parent for each picture. The number of processes is not limited here, because that limit counts
    all processes of the user; seccomp lets the child start none.
    """
    for kind, most in (
        (resource.RLIMIT_AS, memory * 2**20),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _MAX_DESCRIPTORS),
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
