"""Runs of zeros: the parts of a preallocated file that were never written."""

import re

from pipeline.image.errors import EMPTY, Incomplete

_SECTOR_BYTES = 512
_RUN = re.compile(rb"\0{16,}")
"""Coded pictures have no such run, except where a coder's shortest code is all zeros."""

Span = tuple[int, int]
"""Begin and end of a part of a file."""


def runs(data: bytes, begin: int, end: int) -> list[Span]:
    """Return all runs of zeros in this part of the file."""
    return [match.span() for match in _RUN.finditer(data, begin, end)]


def longest(data: bytes, begin: int, end: int) -> Span | None:
    """Return the longest run of zeros in this part of the file, or None."""
    return max(runs(data, begin, end), key=lambda run: run[1] - run[0], default=None)


def is_unwritten(data: bytes, run: Span) -> bool:
    """Return True if a run covers whole sectors only: a hole of the file, hardly of the picture."""
    begin, end = run
    return (
        end - begin >= _SECTOR_BYTES
        and begin % _SECTOR_BYTES == 0
        and (end % _SECTOR_BYTES == 0 or end == len(data))
    )


def check_coded(data: bytes, begin: int, end: int, *, tail: int) -> None:
    """Reject a part that holds coded pixels and a run of zeros. Raises Incomplete.

    `tail`: the most bytes of zeros with which the coder may end.
    """
    if _RUN.search(data, begin, end) or ends_in_zeros(data, begin, end, tail):
        raise Incomplete(EMPTY)


def ends_in_zeros(data: bytes, begin: int, end: int, most: int) -> bool:
    """Return True if this part of the file ends in more than `most` bytes of zeros."""
    return end - begin > most and not any(data[end - most - 1 : end])


def check_plain(data: bytes, begin: int, end: int, *, stride: int, lenient: bool) -> None:
    """Reject a part that holds plain pixels of which some may not be written yet.

    There zeros may also be black. So a strict look rejects every run, and an end in black; a
    lenient one only what is a hole for certain. `stride`: bytes of a row. Raises Incomplete.
    """
    found = runs(data, begin, end)
    if lenient:
        torn = [run for run in found if _is_torn(data, run, begin, stride)]
        found = torn or [run for run in found if is_unwritten(data, run)]
    if found or (not lenient and ends_in_zeros(data, begin, end, 2)):
        raise Incomplete(EMPTY)


def _is_torn(data: bytes, run: Span, begin: int, stride: int) -> bool:
    """Return True if rows of zeros begin or end within a row that is bright, beside a bright row.

    No black area of a picture has such a step of one row; a hole has two.
    """
    first, last = run
    if stride <= 0 or last - first < 2 * stride:
        return False
    column = (first - begin) % stride
    before, above = data[first - column : first], data[max(begin, first - stride) : first - column]
    rest = stride - (last - begin) % stride
    after, below = data[last : last + rest], data[last + rest : last + stride]
    return (_is_bright(before) and _is_bright(above)) or (_is_bright(after) and _is_bright(below))


def _is_bright(part: bytes) -> bool:
    return len(part) >= 16 and part.count(0) * 10 < len(part)
