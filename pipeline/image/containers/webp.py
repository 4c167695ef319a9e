"""WebP: RIFF chunks; is every pixel there?

Specification: RFC 9649.
"""

from collections.abc import Iterator

from pipeline.image.containers import zeros
from pipeline.image.containers.probe import is_used_exactly
from pipeline.image.errors import CUT, EMPTY, Incomplete

_RIFF_HEADER_BYTES = 12
_FRAME_HEADER_BYTES = 16
_LOSSY_TAIL_BYTES = 6
_LOSSY, _LOSSLESS, _ALPHA, _FRAME = b"VP8 ", b"VP8L", b"ALPH", b"ANMF"


def check(data: bytes, *, lenient: bool) -> None:
    """Reject a picture that is shorter than it says, or has a hole. Raises Incomplete.

    `lenient`: it may end in an even area, which looks like a hole.
    """
    if 8 + int.from_bytes(data[4:8], "little") > len(data):
        raise Incomplete(CUT)
    for kind, begin, end in _chunks(data, _RIFF_HEADER_BYTES):
        if not any(kind):
            raise Incomplete(EMPTY)
        if end > len(data):
            raise Incomplete(CUT)
        _check_codes(data, kind, begin, end, lenient=lenient)
        if kind in (_LOSSY, _LOSSLESS):
            return
    raise Incomplete(EMPTY)


def _chunks(data: bytes, at: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, begin and end of the chunks, with those of frames. The last may be cut."""
    while at + 8 <= len(data):
        kind, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        yield kind, at + 8, at + 8 + size
        at += 8 + (_FRAME_HEADER_BYTES if kind == _FRAME else size + size % 2)


def _check_codes(data: bytes, kind: bytes, begin: int, end: int, *, lenient: bool) -> None:
    if kind == _ALPHA and data[begin] & 3 == 0:
        zeros.check_plain(data, begin + 1, end, stride=0, lenient=lenient)
    elif kind in (_LOSSLESS, _ALPHA):
        zeros.check_coded(data, begin, end, tail=1)
    elif kind == _LOSSY:
        if not lenient and zeros.ends_in_zeros(data, begin, end, _LOSSY_TAIL_BYTES):
            raise Incomplete(EMPTY)
        run = zeros.longest(data, begin, end)  # may be a large even area
        if run and not is_used_exactly(data[begin:end], _lossy):
            raise Incomplete(EMPTY)


def _lossy(codes: bytes) -> bytes:
    """Return a file of one lossy frame."""
    padded = codes + b"\0" * (len(codes) % 2)
    chunk = _LOSSY + len(codes).to_bytes(4, "little") + padded
    return b"RIFF" + (4 + len(chunk)).to_bytes(4, "little") + b"WEBP" + chunk
