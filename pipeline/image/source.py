"""Source: read an untrusted file from the descriptor that the parent passed, whole and once."""

import os

from pipeline.children.picture_file import MAX_FILE_BYTES, describe_read_error
from pipeline.image.errors import ImageRejected, SourceUnavailable


def read(descriptor: int) -> bytes:
    """Read the whole file; the descriptor stays open.

    Raises ImageRejected, SourceUnavailable.
    """
    try:
        # not fstat: the sandbox has no call of that name which could not be asked of a path too
        size = os.lseek(descriptor, 0, os.SEEK_END)
        if size > MAX_FILE_BYTES:
            has, most = size // 2**20, MAX_FILE_BYTES // 2**20
            raise ImageRejected(f"the file has {has} MiB; allowed: up to {most}")
        os.lseek(descriptor, 0, os.SEEK_SET)
        # allocated once; one byte more detects a growing file
        data = _read(descriptor, size + 1)
    except OSError as error:
        raise SourceUnavailable(describe_read_error(error)) from error
    if not data:
        raise ImageRejected("the file is empty", incomplete=True)
    if len(data) != size:
        raise ImageRejected("the file is still being written", incomplete=True)
    return data


def _read(descriptor: int, size: int) -> bytes:
    """Read up to `size` bytes; less only at the end of the file."""
    first = os.read(descriptor, size)
    if len(first) == size or not (more := os.read(descriptor, size - len(first))):
        return first
    parts = [first, more]
    while more := os.read(descriptor, size - sum(map(len, parts))):
        parts.append(more)
    return b"".join(parts)
