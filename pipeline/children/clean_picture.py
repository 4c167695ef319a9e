"""Clean picture: pixels that the picture child left in memory, written as a PNG by the parent.

The child may be in the hands of a hostile picture. The parent takes nothing from it but as many
bytes as the picture has, all of which are valid pixels, so that the worker and browsers read a
sound PNG whatever the child did.
"""

import contextlib
import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

_BYTES_PER_PIXEL = 3
_COMPRESSION = 1
"""Level of zlib: the file is read once or twice, and then removed."""


@contextlib.contextmanager
def pixel_memory(width: int, height: int) -> Iterator[int]:
    """Yield a descriptor of memory for RGB pixels, whose size cannot be changed. Raises OSError."""
    descriptor = os.memfd_create("pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, width * height * _BYTES_PER_PIXEL)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        yield descriptor
    finally:
        os.close(descriptor)


def read_as_png(pixels: int, width: int, height: int) -> bytes:
    """Return the pixels behind the descriptor as a PNG. Raises OSError."""
    return encode_png(os.pread(pixels, width * height * _BYTES_PER_PIXEL, 0), width, height)


def write_png(png: bytes, output: Path) -> None:
    """Write a PNG to `output`, a new file. Raises OSError.

    Whoever gets the file gets it after this has returned, so it need not appear at once.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(output, flags, 0o600), "wb") as file:  # noqa: PTH123  # a descriptor
        file.write(png)


def encode_png(pixels: bytes, width: int, height: int) -> bytes:
    """Encode RGB pixels, 8 bits a channel, row by row (PNG specification, third edition)."""
    row = width * _BYTES_PER_PIXEL
    # each row begins with its filter, 0: none
    rows = b"".join(b"\0" + pixels[at : at + row] for at in range(0, len(pixels), row))
    head = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", head),
            _chunk(b"IDAT", zlib.compress(rows, _COMPRESSION)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(name: bytes, content: bytes) -> bytes:
    checked = name + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))
