"""Probes: does a decoder need exactly the codes that a file has?

Decoders do not report how much they read, but show it: codes that they read change the pixels.
"""

import hashlib
import io
from collections.abc import Callable

from PIL import Image

from pipeline.image.limits import clear_errno, is_out_of_memory

_TAIL_BYTES = 8
_MORE = b"\x55\xaa" * 8
_ROWS = 256

Build = Callable[[bytes], bytes]
"""Returns the file that has these codes in the place of its own."""


def reads_no_further(codes: bytes, build: Build) -> bool:
    """Return True if more codes after the last one would change no pixel."""
    return _pixels(build(codes)) == _pixels(build(codes + _MORE))


def is_used_exactly(codes: bytes, build: Build) -> bool:
    """Return True if the last codes are read, and more would not be.

    A decoder that took a hole for codes is out of step: it has all pixels before the codes end, or
    the codes end before it has all pixels.
    """
    tail = codes[-_TAIL_BYTES:]
    other = bytes(0xAA if byte == 0x55 else 0x55 for byte in tail)
    changed = codes[:-_TAIL_BYTES] + other
    pixels = _pixels(build(codes))
    return _pixels(build(codes + _MORE)) == pixels and _pixels(build(changed)) != pixels


def _pixels(data: bytes) -> bytes | None:
    """Return a digest of the decoded pixels; None if they cannot be decoded.

    Raises MemoryError.
    """
    clear_errno()
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG", "WEBP"]) as image:
            image.load()
    except MemoryError:
        raise
    except Exception as error:  # decoders raise any type
        if is_out_of_memory(error):
            raise MemoryError from error
        return None
    digest = hashlib.sha256()
    for top in range(0, image.height, _ROWS):
        digest.update(image.crop((0, top, image.width, min(top + _ROWS, image.height))).tobytes())
    return digest.digest()
