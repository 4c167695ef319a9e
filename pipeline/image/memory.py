"""Machine memory: tells a picture that is too large from a machine that is out of memory."""

import mmap
import os

_SPARE_BYTES = 4 * 2**20
"""Left out when the rest of the limit is probed, for what the probe itself needs."""


class MachineMemory:
    """The kernel's figures of memory, kept open, because the sandbox opens no file."""

    def __init__(self) -> None:
        self._own = _open("/proc/self/statm")
        self._machine = _open("/proc/meminfo")
        self._overcommit = _open("/proc/sys/vm/overcommit_memory")

    def is_short(self, limit: int) -> bool:
        """Return True if the system refuses even the address space that `limit` in bytes leaves.

        Then not the picture is too large, but the machine is out of memory; except where all of
        its memory is less than the limit, because waiting would not help.
        """
        pages = int(_read(self._own).split()[0])
        left = limit - pages * mmap.PAGESIZE - _SPARE_BYTES
        if left <= 0:
            return False
        try:
            mmap.mmap(-1, left).close()  # is counted, but never touched
        except (OSError, MemoryError):
            return left < self._total()
        return False

    def _total(self) -> int:
        """Return the bytes that the system would ever allocate."""
        sizes = {}
        for line in _read(self._machine).splitlines():
            name, value = line.split(":")
            sizes[name] = int(value.split()[0]) * 1024
        strict = _read(self._overcommit).strip() == "2"
        return sizes["CommitLimit"] if strict else sizes["MemTotal"] + sizes["SwapTotal"]


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _read(descriptor: int) -> str:
    return os.pread(descriptor, 65536, 0).decode()
