"""Content: compare and copy what is in files. Holes are passed over, however large they are."""

import contextlib
import errno
import os
from pathlib import Path

from rules.text_file import NotRegular, open_regular

_BLOCK_BYTES = 1 << 20
_NO_HOLES = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY)
"""Errors of a file system that does not tell where a file has holes."""


def has_same_content(one: Path, other: Path) -> bool:
    """Return True if both are regular files with the same bytes; False for a link. Raises OSError.

    filecmp follows links, and takes files of one size and time for those that it has compared.
    """
    with contextlib.ExitStack() as opened:
        descriptors = []
        for file in (one, other):
            try:
                descriptors.append(open_regular(file))
            except OSError as error:
                if isinstance(error, NotRegular) or error.errno == errno.ELOOP:
                    return False
                raise
            opened.callback(os.close, descriptors[-1])
        a, b = descriptors
        size = os.fstat(a).st_size
        if os.fstat(b).st_size != size:
            return False
        at = 0
        while (at := min(_next_data(a, at, size), _next_data(b, at, size))) < size:
            end = max(_next_hole(a, at, size), _next_hole(b, at, size))
            block = os.pread(a, min(_BLOCK_BYTES, end - at), at)
            if not block or block != os.pread(b, len(block), at):  # it has shrunk, or differs
                return False
            at += len(block)
    return True


def copy_content(source: int, copy: int) -> None:
    """Copy a file to an empty one, by their descriptors; its holes stay holes. Raises OSError.

    Content without room on the disk of the copy is not begun.
    """
    status, room = os.fstat(source), os.fstatvfs(copy)
    size, most = status.st_size, room.f_bavail * room.f_frsize
    if room.f_blocks and min(size, status.st_blocks * 512) > most:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    at = 0
    while (at := _next_data(source, at, size)) < size:
        end = _next_hole(source, at, size)
        block = os.pread(source, min(_BLOCK_BYTES, end - at), at)
        if not block:
            break
        written = 0
        while written < len(block):
            written += os.pwrite(copy, memoryview(block)[written:], at + written)
        at += len(block)
    os.ftruncate(copy, size)


def _next_data(descriptor: int, at: int, size: int) -> int:
    """Return the position of the first data from `at` on; `size` if there is only a hole."""
    return _seek(descriptor, at, os.SEEK_DATA, beyond=size, unknown=at)


def _next_hole(descriptor: int, at: int, size: int) -> int:
    """Return the position of the first hole from `at` on; `size` if there is none."""
    return min(size, _seek(descriptor, at, os.SEEK_HOLE, beyond=size, unknown=size))


def _seek(descriptor: int, at: int, how: int, *, beyond: int, unknown: int) -> int:
    try:
        return os.lseek(descriptor, at, how)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return beyond
        if error.errno in _NO_HOLES:
            return unknown
        raise
