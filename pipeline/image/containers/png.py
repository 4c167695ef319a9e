"""PNG: chunks; is every pixel there, and what do other chunks say of the colours?

Specification: https://www.w3.org/TR/png-3/
"""

import re
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from pipeline.image.errors import CUT, DAMAGED, EMPTY, ImageRejected, Incomplete

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TYPE = re.compile(rb"[A-Za-z]{4}")
_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_COLOURS = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTING_TEXTS = (b"Raw profile type exif", b"Raw profile type APP1", b"XML:com.adobe.xmp")
"""Texts that may have the orientation; programs older than the eXIf chunk write such."""
_MAX_EXIF_BYTES = 500_000
_MAX_PROFILE_BYTES = 4 * 2**20


class _Chunk(NamedTuple):
    """`whole`: length, type, body and checksum; `end`: where it ends in the file."""

    type: bytes
    whole: memoryview
    end: int

    @property
    def body(self) -> bytes:
        return bytes(self.whole[8:-4])

    def is_sound(self) -> bool:
        return zlib.crc32(self.whole[4:-4]) == int.from_bytes(self.whole[-4:], "big")


def check_kind(data: bytes) -> None:
    """Reject a PNG that only Apple's programs read. Raises ImageRejected."""
    if data[12:16] == b"CgBI":
        raise ImageRejected(
            "it is a PNG of an iPhone app (CgBI), which is not supported; export it as PNG"
        )


def check(data: bytes, *, lenient: bool) -> bytes:
    """Return the data to decode: pixels and orientation. All else is left out, mostly unread.

    `lenient`: with the end chunk, if it alone is missing. Raises ImageRejected.
    """
    kept: list[bytes | memoryview] = [_SIGNATURE]
    end, kind = len(_SIGNATURE), b""
    for chunk in _chunks(data):
        end, kind = chunk.end, chunk.type
        if kind in _PIXELS and not chunk.is_sound():
            hole = not any(chunk.whole[-4:]) or b"\0" * 16 in chunk.body
            raise Incomplete(EMPTY if hole else DAMAGED)
        if kind in _PIXELS or _orients(chunk):
            kept.append(chunk.whole)
    if kind != b"IEND":
        rest = data[end : end + 12]
        if any(data[end:]) and len(rest) == 12 and not _TYPE.fullmatch(rest[4:8]):
            raise Incomplete(DAMAGED if any(rest[:8]) else EMPTY)
        if not lenient or rest[4:8] == b"IDAT":
            raise Incomplete(CUT)
        kept.append(_END)
    return b"".join(kept)


def read_colours(data: bytes) -> dict[bytes, bytes]:
    """Return the bodies of the chunks that say which colours the numbers mean, by type.

    That of iCCP is the unpacked profile.
    """
    found: dict[bytes, bytes] = {}
    for chunk in _chunks(data):
        if chunk.type == b"IDAT":
            break
        if chunk.type in _COLOURS and chunk.type not in found and chunk.is_sound():
            body = chunk.body
            if chunk.type == b"iCCP":
                body = _unpack(body.partition(b"\0")[2][1:], _MAX_PROFILE_BYTES) or b""
            if body:
                found[chunk.type] = body
    return found


_END = b"\0\0\0\0IEND\xaeB`\x82"


def _chunks(data: bytes) -> Iterator[_Chunk]:
    """Yield the chunks up to the end chunk, or to what is no chunk."""
    at, view = len(_SIGNATURE), memoryview(data)
    while at + 12 <= len(data):
        kind = data[at + 4 : at + 8]
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data) or not _TYPE.fullmatch(kind):
            return
        yield _Chunk(kind, view[at:end], end)
        if kind == b"IEND":
            return
        at = end


def _orients(chunk: _Chunk) -> bool:
    """Return True if a chunk may have the orientation, and is small enough to be read."""
    if chunk.type not in (b"eXIf", *_TEXTS) or len(chunk.whole) > _MAX_EXIF_BYTES:
        return False
    if chunk.type == b"eXIf":
        return chunk.is_sound()
    keyword, _, rest = chunk.body.partition(b"\0")
    if keyword not in _ORIENTING_TEXTS or not chunk.is_sound():
        return False
    if chunk.type == b"iTXt" and rest[:1] == b"\1":
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    elif chunk.type == b"zTXt":
        rest = rest[1:]
    else:
        return True
    return _unpack(rest, _MAX_EXIF_BYTES) is not None


def _unpack(packed: bytes, limit: int) -> bytes | None:
    """Unpack a zlib stream; None if it is broken, or larger than `limit` in bytes."""
    stream = zlib.decompressobj()
    try:
        unpacked = stream.decompress(packed, limit + 1)
    except zlib.error:
        return None
    return unpacked if stream.eof and len(unpacked) <= limit else None
