"""TIFF: the first page's strips or tiles; is every pixel there?

Specification: Adobe's TIFF 6.0; BigTIFF: https://libtiff.gitlab.io/libtiff/specification/bigtiff.html
"""

import struct
import zlib
from dataclasses import dataclass

from pipeline.image import formats
from pipeline.image.containers import jpeg, zeros
from pipeline.image.errors import CUT, DAMAGED, EMPTY, ImageRejected, Incomplete

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _JPEG_TABLES = 256, 257, 258, 259, 277, 347
_STRIP_OFFSETS, _STRIP_SIZES = 273, 279
_PLANAR, _TILE_WIDTH = 284, 322
_TILE_OFFSETS, _TILE_SIZES = 324, 325
_DNG_VERSION = 50706
_PLAIN, _DEFLATES, _JPEG = 1, (8, 32946), 7
_MAY_HAVE_ZEROS = (1, 6, 34925, 50000)
"""None, old JPEG, LZMA, Zstandard."""
_RAW = formats.find_by_name(".dng")
_FORMATS = {1: "B", 3: "H", 4: "I", 7: "B", 13: "I", 16: "Q"}
"""struct's letters of the field types that are whole numbers."""
_SIZES = {2: 1, 3: 2, 4: 4, 5: 8, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""Bytes of a value of each field type, where more than one."""
_MAX_PARTS = 1_000_000
_NEEDED = {_BITS, _STRIP_OFFSETS, _STRIP_SIZES, 318, 319, 320, _TILE_OFFSETS, _TILE_SIZES, 339,
           _JPEG_TABLES, 529, 532}  # fmt: skip
"""Tags without which the pixels are wrong, and whose values are not all zero. Others may be, such
as SMinSampleValue in what ImageMagick writes."""


@dataclass(frozen=True)
class _Page:
    """First page: the values of each tag of whole numbers."""

    tags: dict[int, tuple[int, ...]]

    def number(self, tag: int, default: int) -> int:
        return (self.tags.get(tag) or (default,))[0]

    def parts(self, size: int) -> list[tuple[int, int]]:
        """Return begin and end of each strip or tile in a file of `size` bytes."""
        for offsets, sizes in ((_TILE_OFFSETS, _TILE_SIZES), (_STRIP_OFFSETS, _STRIP_SIZES)):
            begins, stated = self.tags.get(offsets, ()), self.tags.get(sizes, ())
            if begins and len(begins) == len(stated):
                return [(at, at + length) for at, length in zip(begins, stated, strict=True)]
            if len(begins) == 1:
                return [(begins[0], size)]
        return []

    def stride(self) -> int:
        """Return the bytes of a row of a strip or tile without compression; 0 with compression."""
        if self.number(_COMPRESSION, _PLAIN) != _PLAIN:
            return 0
        bits = self.number(_BITS, 1)
        if self.number(_PLANAR, 1) == 1:
            bits *= self.number(_SAMPLES, 1)
        return (self.number(_TILE_WIDTH, self.number(_WIDTH, 0)) * bits + 7) // 8

    def pixel_bytes(self) -> int:
        """Return the bytes of the unpacked pixels, with some for what tiles have beyond them."""
        width, height = self.number(_WIDTH, 0), self.number(_HEIGHT, 0)
        bits = sum(self.tags.get(_BITS, (1,))) * self.number(_SAMPLES, 1)
        return (width + 1024) * (height + 1024) * (bits // 8 + 1)


def check_kind(data: bytes) -> None:
    """Reject a camera's raw file, of which only the thumbnail would be decoded.

    Raises ImageRejected.
    """
    try:
        tags = read_tags(data)
    except (struct.error, IndexError, Incomplete):
        return
    if _DNG_VERSION in tags:
        raise ImageRejected(f"it is {_RAW}")


def check(data: bytes, *, lenient: bool) -> None:
    """Reject a page of which a strip or tile is missing or has a hole. Raises ImageRejected."""
    try:
        page = _Page(read_tags(data))
    except (struct.error, IndexError) as error:
        raise Incomplete(CUT) from error
    packing, parts = page.number(_COMPRESSION, _PLAIN), page.parts(len(data))
    if sum(end - begin for begin, end in parts) > 2 * len(data):  # they overlap
        raise Incomplete(DAMAGED)
    budget = page.pixel_bytes()
    for begin, end in parts:
        if begin in (0, end):
            raise Incomplete(EMPTY)
        if end > len(data):
            raise Incomplete(CUT)
        if packing in _DEFLATES:
            budget -= _check_deflated(data, begin, end, budget)
        elif packing == _JPEG:
            tables = bytes(page.tags.get(_JPEG_TABLES, ()))[:-2] or b"\xff\xd8"
            jpeg.check(tables + data[begin + 2 : end], lenient=lenient)
        elif packing in _MAY_HAVE_ZEROS:
            zeros.check_plain(data, begin, end, stride=page.stride(), lenient=lenient)
        else:
            zeros.check_coded(data, begin, end, tail=1)


def read_tags(data: bytes) -> dict[int, tuple[int, ...]]:
    """Return the whole numbers of the first page by tag.

    Raises Incomplete, struct.error, IndexError.
    """
    order = "<" if data[:2] == b"II" else ">"
    is_big = data[2:4] in (b"+\0", b"\0+")
    offset, count, entry = ("Q", "Q", "HHQ") if is_big else ("I", "H", "HHI")
    (at,) = struct.unpack_from(order + offset, data, 8 if is_big else 4)
    if at == 0:
        raise Incomplete(EMPTY)
    (entries,) = struct.unpack_from(order + count, data, at)
    at += struct.calcsize(order + count)
    inline = struct.calcsize(order + offset)
    if entries == 0:
        raise Incomplete(EMPTY)
    found = {}
    for _ in range(min(entries, 4096)):
        tag, kind, number = struct.unpack_from(order + entry, data, at)
        at += struct.calcsize(order + entry)
        size = _SIZES.get(kind, 1) * number
        where = at if size <= inline else struct.unpack_from(order + offset, data, at)[0]
        if kind == 0 or (size > inline and tag in _NEEDED and _is_empty(data, where, size)):
            raise Incomplete(EMPTY)
        if kind in _FORMATS and number <= _MAX_PARTS:
            found[tag] = struct.unpack_from(f"{order}{number}{_FORMATS[kind]}", data, where)
        at += inline
    return found


def _is_empty(data: bytes, begin: int, size: int) -> bool:
    """Return True if a field's values were never written: a hole may hit them alone."""
    return begin < len(data) and not any(data[begin : begin + min(size, 4096)])


def _check_deflated(data: bytes, begin: int, end: int, budget: int) -> int:
    """Check a stream, which has its own end and checksum; return the bytes that it unpacks to.

    No more than about `budget` bytes are unpacked: the decoder needs no more.
    """
    stream, rest, unpacked = zlib.decompressobj(), data[begin:end], 0
    try:
        while rest and not stream.eof and unpacked <= budget:
            unpacked += len(stream.decompress(rest, 1 << 20))
            rest = stream.unconsumed_tail
    except zlib.error as error:
        raise Incomplete(EMPTY if zeros.longest(data, begin, end) else DAMAGED) from error
    if not stream.eof and unpacked <= budget:
        raise Incomplete(CUT)
    return unpacked
