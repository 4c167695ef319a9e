"""HEIC and AVIF: boxes; is every item there, and which colours do its numbers mean?

Specifications: ISO/IEC 14496-12 (boxes), 23008-12 (items), 23091-2 (code points of colours).
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from pipeline.image.containers import zeros
from pipeline.image.errors import CUT, DAMAGED, EMPTY, Incomplete

_MAX_BOXES = 100_000
_CODED = (b"hvc1", b"hev1", b"av01", b"avc1", b"j2k1", b"jpeg", b"mdat")
_ABOUT_ITEMS = {b"iloc", b"iinf", b"iref", b"pitm"}
_IN_FILE, _IN_META = 0, 1
_ANY = 99
_FULL_BOX_BYTES = 4


class _Box(NamedTuple):
    """`begin` and `end` of its body. The body of the last one may be cut."""

    type: bytes
    begin: int
    end: int


class _Item(NamedTuple):
    """Part of an item, and the item's type."""

    type: bytes
    begin: int
    end: int


class CodePoints(NamedTuple):
    """Colour primaries and transfer characteristics, as in ITU-T H.273."""

    primaries: int
    transfer: int


def check(data: bytes, *, lenient: bool) -> None:
    """Reject a file of which a coded item is missing or has a hole. Raises Incomplete.

    None of the coders in use writes a run of zeros. `lenient`: metadata may be missing.
    """
    try:
        items = list(_items(data))
    except (struct.error, IndexError) as error:
        raise Incomplete(CUT) from error
    if not items or next(_top(data, b"moov"), None):  # a film
        items += [_Item(b"mdat", box.begin, box.end) for box in _top(data, b"mdat")]
    coded = [item for item in items if item.type in _CODED]
    if not coded:
        raise Incomplete(CUT)
    if sum(item.end - item.begin for item in items) > 4 * len(data):  # they overlap
        raise Incomplete(DAMAGED)
    if any(item.end > len(data) for item in (coded if lenient else items)):
        raise Incomplete(CUT)
    for item in coded:
        zeros.check_coded(data, item.begin, item.end, tail=0)


def read_code_points(data: bytes) -> CodePoints | None:
    """Return what the primary item's nclx property says; None without one."""
    try:
        meta = next(_top(data, b"meta"))
        children = list(_boxes(data, meta.begin + _FULL_BOX_BYTES, meta.end))
        properties = _properties_of(data, children, _primary(data, children))
    except (struct.error, IndexError, StopIteration):
        return None
    for box in properties:
        if box.type == b"colr" and data[box.begin : box.begin + 4] == b"nclx":
            return CodePoints(*struct.unpack_from(">HH", data, box.begin + 4))
    return None


def _boxes(data: bytes, at: int, stop: int) -> Iterator[_Box]:
    for _ in range(_MAX_BOXES):
        if at + 8 > min(stop, len(data)):
            return
        size, kind, begin = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], at + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, begin)
            begin += 8
        end = stop if size == 0 else at + size
        if end < begin or not any(kind):
            return
        yield _Box(kind, begin, end)
        at = end


def _top(data: bytes, kind: bytes) -> Iterator[_Box]:
    return (box for box in _boxes(data, 0, len(data)) if box.type == kind)


def _items(data: bytes) -> Iterator[_Item]:
    """Yield the parts of the file that hold items, from the item location box.

    Raises Incomplete if the boxes about the items have a hole.
    """
    for meta in _top(data, b"meta"):
        if meta.end > len(data):
            raise Incomplete(CUT)
        children = {box.type: box for box in _tiles(data, meta.begin + _FULL_BOX_BYTES, meta.end)}
        for kind in _ABOUT_ITEMS & children.keys():
            zeros.check_coded(data, children[kind].begin, children[kind].end, tail=_ANY)
        if b"iprp" in children:
            for box in _tiles(data, children[b"iprp"].begin, children[b"iprp"].end):
                if box.type == b"ipco":
                    _check_properties(data, box)
        if b"iloc" in children and b"iinf" in children:
            types = _types(data, children[b"iinf"])
            inside = children[b"idat"].begin if b"idat" in children else 0
            for number, begin, end in _extents(data, children[b"iloc"], inside):
                yield _Item(types.get(number, b""), begin, end)


def _check_properties(data: bytes, ipco: _Box) -> None:
    for box in _tiles(data, ipco.begin, ipco.end):
        if box.type == b"auxC":  # says which item is the transparency
            zeros.check_coded(data, box.begin, box.end, tail=_ANY)


def _tiles(data: bytes, begin: int, end: int) -> list[_Box]:
    """Return the boxes in this part of the file, which they must fill. Raises Incomplete."""
    boxes = list(_boxes(data, begin, end))
    if not boxes or boxes[-1].end != end:
        raise Incomplete(EMPTY)
    return boxes


def _types(data: bytes, iinf: _Box) -> dict[int, bytes]:
    """Return the types of the items by number."""
    found, at = {}, iinf.begin + _FULL_BOX_BYTES + (4 if data[iinf.begin] else 2)
    for infe in _boxes(data, at, iinf.end):
        wide = data[infe.begin] > 2
        (number,) = struct.unpack_from(">I" if wide else ">H", data, infe.begin + 4)
        at = infe.begin + _FULL_BOX_BYTES + (6 if wide else 4)
        found[number] = data[at : at + 4]
    return found


def _extents(data: bytes, iloc: _Box, inside: int) -> Iterator[tuple[int, int, int]]:
    """Yield the item's number, begin and end of each extent."""
    version, at = data[iloc.begin], iloc.begin + _FULL_BOX_BYTES
    sizes = int.from_bytes(data[at : at + 2], "big")
    offset_size, length_size, base_size, index_size = (
        sizes >> shift & 15 for shift in (12, 8, 4, 0)
    )

    def number(size: int) -> int:
        nonlocal at
        at += size
        if at > iloc.end:
            raise Incomplete(EMPTY)
        return int.from_bytes(data[at - size : at], "big")

    at += 2
    for _ in range(number(4 if version == 2 else 2)):
        item = number(4 if version == 2 else 2)
        method = number(2) & 15 if version else _IN_FILE
        number(2)
        base = number(base_size)
        for _ in range(number(2)):
            if version:
                number(index_size)
            begin = base + number(offset_size) + (inside if method == _IN_META else 0)
            length = number(length_size)
            if method in (_IN_FILE, _IN_META):
                yield item, begin, begin + length if length else len(data)


def _primary(data: bytes, children: list[_Box]) -> int:
    box = next(box for box in children if box.type == b"pitm")
    version = data[box.begin]
    return int(struct.unpack_from(">I" if version else ">H", data, box.begin + 4)[0])


def _properties_of(data: bytes, children: list[_Box], item: int) -> list[_Box]:
    """Return the properties that are associated with an item."""
    iprp = next(box for box in children if box.type == b"iprp")
    inner = list(_boxes(data, iprp.begin, iprp.end))
    container = next(box for box in inner if box.type == b"ipco")
    properties = list(_boxes(data, container.begin, container.end))
    found = []
    for box in inner:
        if box.type == b"ipma":
            numbers = _associations(data, box).get(item, [])
            found += [properties[number - 1] for number in numbers if 0 < number <= len(properties)]
    return found


def _associations(data: bytes, ipma: _Box) -> dict[int, list[int]]:
    version, is_wide = data[ipma.begin], data[ipma.begin + 3] & 1
    (count,) = struct.unpack_from(">I", data, ipma.begin + 4)
    at, found = ipma.begin + 8, {}
    for _ in range(min(count, _MAX_BOXES)):
        (item,) = struct.unpack_from(">I" if version else ">H", data, at)
        at += 4 if version else 2
        number, at = data[at], at + 1
        entry = ">H" if is_wide else ">B"
        values = [struct.unpack_from(entry, data, at + i * (1 + is_wide))[0] for i in range(number)]
        found[item] = [value & (0x7FFF if is_wide else 0x7F) for value in values]
        at += number * (1 + is_wide)
    return found
