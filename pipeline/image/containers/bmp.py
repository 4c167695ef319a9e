"""BMP: is every row there?

Specification: [MS-WMF] 2.2.2, and BITMAPFILEHEADER in Microsoft's Windows GDI documentation.
"""

import struct

from pipeline.image.containers import zeros
from pipeline.image.errors import CUT, DAMAGED, EMPTY, Incomplete

_PLAIN = (0, 3, 6)
_V5_HEADER = (124).to_bytes(4, "little")
_EMBEDDED = b"DEBM"
_END_OF_BITMAP = b"\0\1"


def read_profile(data: bytes) -> bytes:
    """Return the embedded colour profile; empty if there is none."""
    if data[14:18] != _V5_HEADER or data[70:74] != _EMBEDDED:
        return b""
    begin, size = struct.unpack_from("<II", data, 126)
    return data[14 + begin : 14 + begin + size]


def check(data: bytes, *, lenient: bool) -> None:
    """Reject a picture with rows missing. Raises Incomplete."""
    try:
        (begin,) = struct.unpack_from("<I", data, 10)
        (header,) = struct.unpack_from("<I", data, 14)
        if header == 12:
            width, height, bits = *struct.unpack_from("<HH", data, 18), data[24]
            packing = 0
        else:
            width, height, _, bits, packing = struct.unpack_from("<iiHHI", data, 18)
    except struct.error as error:
        raise Incomplete(CUT) from error
    if not begin or not bits:
        raise Incomplete(EMPTY)
    if packing in _PLAIN:
        stride = (width * bits + 31) // 32 * 4
        end = begin + stride * abs(height)
        if end > len(data):
            raise Incomplete(CUT)
        end -= stride - (width * bits + 7) // 8  # padding
        zeros.check_plain(data, begin, end, stride=stride, lenient=lenient)
        return
    (size,) = struct.unpack_from("<I", data, 34)
    end = begin + size if size else len(data)
    if end > len(data):
        raise Incomplete(CUT)
    if data.find(_END_OF_BITMAP, max(begin, end - 8), end) < 0:
        raise Incomplete(CUT if any(data[end - 8 : end]) else EMPTY)
    if zeros.longest(data, begin, end):
        raise Incomplete(EMPTY)
    if header > 124:
        raise Incomplete(DAMAGED)
