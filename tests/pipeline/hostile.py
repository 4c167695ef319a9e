"""Files as somebody would make them who means harm: bombs, polyglots, endless lists."""

import struct
import zlib

from PIL import Image

from tests.fuzz.corpus import encoded, parts, scene

SIDE = 50_000
"""Pixels a side that the bombs claim: 7.5 GB of colours."""


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    checked = name + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


def png(width: int, height: int, *extra: bytes) -> bytes:
    """A PNG that claims any size, with its pixels missing, and extra chunks before them."""
    head = chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + body


def with_chunk(data: bytes, *extra: bytes) -> bytes:
    """A sound PNG with extra chunks after its head."""
    return data[:33] + b"".join(extra) + data[33:]


def with_segment(jpeg: bytes, marker: int, content: bytes, times: int = 1) -> bytes:
    """A JPEG with a segment at its beginning, or the same many times."""
    segment = bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content
    return jpeg[:2] + segment * times + jpeg[2:]


def with_tag(tiff: bytes, tag: int, kind: int, count: int, value: int) -> bytes:
    """A TIFF with another entry of this tag."""
    (at,) = struct.unpack_from("<I", tiff, 4)
    (entries,) = struct.unpack_from("<H", tiff, at)
    out = bytearray(tiff)
    for entry in range(at + 2, at + 2 + 12 * entries, 12):
        if struct.unpack_from("<H", tiff, entry) == (tag,):
            struct.pack_into("<HHII", out, entry, tag, kind, count, value)
    assert bytes(out) != tiff
    return bytes(out)


def claiming(kind: str, side: int = SIDE) -> bytes:
    """A tiny file of this format that claims a picture of side x side."""
    data = bytearray(encoded(scene(), kind))
    if kind == "JPEG":
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, side, side)
    elif kind == "PNG":
        return png(side, side)
    elif kind == "WEBP":
        sides = (side - 1).to_bytes(3, "little") * 2
        body = b"WEBPVP8X" + struct.pack("<II", 10, 0) + sides + bytes(data[12:])
        return b"RIFF" + struct.pack("<I", len(body)) + body
    elif kind == "TIFF":
        return with_tag(with_tag(bytes(data), 256, 4, 1, side), 257, 4, 1, side)
    elif kind == "BMP":
        struct.pack_into("<ii", data, 18, side, side)
    elif kind == "GIF":
        struct.pack_into("<HH", data, 6, side, side)
    else:
        struct.pack_into(">II", data, data.index(b"ispe") + 8, side, side)
    return bytes(data)


def film_of(frames: int) -> bytes:
    """A GIF of very many frames."""
    two = encoded(scene(), "GIF", save_all=True, append_images=[scene().rotate(90)], duration=10)
    first = two.index(b"\x21\xf9")
    second = two.index(b"\x21\xf9", first + 1)
    return two[:second] + two[second:-1] * (frames - 1) + two[-1:]


def slow_jpeg(side: int = 2000, scans: int = 3000) -> bytes:
    """A progressive JPEG with the same last scan again and again: few bytes, much work."""
    data = encoded(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def cyclic_tiff() -> bytes:
    """A TIFF whose first page is followed by itself."""
    data = bytearray(encoded(scene(), "TIFF"))
    (at,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, at)
    struct.pack_into("<I", data, at + 2 + 12 * entries, at)
    return bytes(data)


def bad_restarts() -> bytes:
    """A JPEG whose restart markers come in a wrong order."""
    data = bytearray(encoded(scene((96, 96)), "JPEG", restart_marker_blocks=1))
    scan = parts(bytes(data))[-1][0]
    found = [
        at for at in range(scan, len(data) - 1) if data[at] == 0xFF and 0xD0 <= data[at + 1] <= 0xD7
    ]
    for at in found[::2]:
        data[at + 1] = 0xD0 + (data[at + 1] - 0xD0 + 5) % 8
    return bytes(data)


def boxes_in_boxes(depth: int = 2000) -> bytes:
    """The beginning of a HEIC, then boxes nested without end."""
    nested = b""
    for _ in range(depth):
        nested = struct.pack(">I", len(nested) + 8) + b"ipco" + nested
    return struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + nested
