"""GIF: blocks; is the first frame whole, and is the trailer there?

Specification: https://www.w3.org/Graphics/GIF/spec-gif89a.txt
"""

from pipeline.image.containers import zeros
from pipeline.image.errors import CUT, DAMAGED, EMPTY, Incomplete

_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B


def check(data: bytes, *, lenient: bool) -> None:
    """Reject a picture without trailer, or with a hole in a frame. Raises Incomplete.

    `lenient`: the trailer may be missing if the first frame is there.
    """
    whole_frames, at = 0, 13 + _table_bytes(data[10:11])
    while at < len(data):
        block = data[at]
        if block == _TRAILER:
            return
        if block == _IMAGE:
            begin = at + 10 + _table_bytes(data[at + 9 : at + 10]) + 1
            at = _skip_sub_blocks(data, begin)
            if at <= len(data):
                if not lenient and zeros.longest(data, begin, at):
                    raise Incomplete(EMPTY)  # lenient: or a coder that does not pack
                whole_frames += 1
        elif block == _EXTENSION:
            at = _skip_sub_blocks(data, at + 2)
        else:
            if any(data[at:]):
                raise Incomplete(DAMAGED if block else EMPTY)
            break
    if not lenient or not whole_frames:
        raise Incomplete(CUT)


def _table_bytes(flags: bytes) -> int:
    """Return the size of the colour table that these flags announce."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def _skip_sub_blocks(data: bytes, at: int) -> int:
    """Return where a series of sub-blocks ends; behind the end of the file if it is cut."""
    while at < len(data):
        size = data[at]
        at += 1 + size
        if size == 0:
            return at
    return len(data) + 1
