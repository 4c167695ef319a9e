"""JPEG: segments and scans; is every pixel there?

A decoder fills missing blocks with grey and takes zeros for codes, both without an error. Here the
end marker is required, and where a scan has a run of zeros, that its codes end where the scan ends.
Specification: ITU-T T.81.
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.image.containers import zeros
from pipeline.image.containers.probe import Build, is_used_exactly, reads_no_further
from pipeline.image.errors import CUT, DAMAGED, EMPTY, ImageRejected, Incomplete

_DHT, _SOI, _EOI, _SOS, _DQT, _DRI = 0xC4, 0xD8, 0xD9, 0xDA, 0xDB, 0xDD
_RESTARTS = range(0xD0, 0xD8)
_STANDALONE = (0x01, _SOI, *_RESTARTS)
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_UNSUPPORTED = {
    0xC3: "lossless",
    0xC5: "hierarchical",
    0xC6: "hierarchical",
    0xC7: "hierarchical",
    0xCB: "lossless",
    0xCD: "hierarchical",
    0xCE: "hierarchical",
    0xCF: "hierarchical",
}
_ARITHMETIC = (0xC9, 0xCA)
_PROGRESSIVE = (0xC2, 0xCA)
_UNSEEN = 99
_MARKER = re.compile(rb"\xff+[^\x00\xff]")
_SCAN_END = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_INTERVAL_END = re.compile(rb"\xff+[^\x00\xff]")


class _Component(NamedTuple):
    across: int
    down: int


@dataclass
class _Frame:
    """Frame header. `left` has the bits of each coefficient that no scan has given yet."""

    marker: int
    width: int
    height: int
    components: dict[int, _Component]
    left: dict[int, list[int]] = field(default_factory=dict)

    def lacks_bits(self) -> bool:
        """Return True if some bits of a coefficient are in no scan."""
        return any(left for each in self.left.values() for left in each)

    def units(self, chosen: list[int]) -> int:
        """Return the number of coding units in a scan of the chosen components."""
        widest = max(each.across for each in self.components.values())
        tallest = max(each.down for each in self.components.values())
        across, down = 8 * widest, 8 * tallest
        if len(chosen) == 1:
            one = self.components[chosen[0]]
            width = -(-self.width * one.across // widest)
            height = -(-self.height * one.down // tallest)
            return -(-width // 8) * -(-height // 8)
        return -(-self.width // across) * -(-self.height // down)


class _Scan(NamedTuple):
    """Coded data of one scan: where it begins and ends, and its number of coding units.

    `even`: zeros are the codes of an even area. `constant`: there are no other codes.
    """

    begin: int
    end: int
    units: int
    restart_interval: int
    even: bool
    constant: bool

    def has_restarts(self, data: bytes) -> bool:
        """Return True if the scan has as many restart markers as it needs."""
        if not self.restart_interval:
            return True
        found = sum(1 for _ in _RESTART.finditer(data, self.begin, self.end))
        return found == -(-self.units // self.restart_interval) - 1


@dataclass
class _Layout:
    """A JPEG up to its end marker. `end` is None if there is none.

    `enough` is the number of scans that have all bits of all coefficients.
    """

    frame: _Frame | None = None
    scans: list[_Scan] = field(default_factory=list)
    end: int | None = None
    enough: int | None = None
    tables: dict[int, bytes] = field(default_factory=dict)
    restart_interval: int = 0

    def add_segment(self, marker: int, body: bytes) -> None:
        """Note what decides over the scans. Raises Incomplete, and errors of reading."""
        if marker in _FRAMES:
            if self.frame is not None:
                raise Incomplete(DAMAGED)
            self.frame = _read_frame(marker, body)
        elif marker == _DQT:
            _check_quantizers(body)
        elif marker == _DHT:
            self.tables |= _read_huffman_tables(body)
        elif marker == _DRI:
            (self.restart_interval,) = struct.unpack(">H", body)

    def add_scan(self, header: bytes, begin: int, end: int) -> None:
        """Note a scan and what it gives. Raises Incomplete, and errors of reading."""
        if self.frame is None:
            raise Incomplete(DAMAGED)
        units = _read_scan(self.frame, header)
        used = _tables_of(header, self.tables)
        constant = all(len(symbols) == 1 for symbols in used.values())
        scan = _Scan(begin, end, units, self.restart_interval, _zeros_are_even(used), constant)
        self.scans.append(scan)
        if self.enough is None and not self.frame.lacks_bits():
            self.enough = len(self.scans)


def check(data: bytes, *, lenient: bool) -> bytes:
    """Return the data to decode; `lenient`: with the end marker, if it alone is missing.

    Raises ImageRejected.
    """
    layout = _Layout()
    try:
        _walk(data, layout)
    except (Incomplete, IndexError, KeyError, ZeroDivisionError, struct.error) as error:
        if not lenient or not layout.scans:
            raise error if isinstance(error, Incomplete) else Incomplete(DAMAGED) from error
        layout.end = None  # some phones write none, and then what is no JPEG
    frame = layout.frame
    if frame is None or not layout.scans:
        raise Incomplete(CUT if layout.end is None else DAMAGED)
    if layout.end is None and not lenient:
        raise Incomplete(CUT)
    if layout.end is None:
        data, layout = _with_end(data, layout)
    if any(left[0] == _UNSEEN for left in frame.left.values()):
        raise Incomplete(DAMAGED)
    _check_runs(data, frame, layout.scans, lenient=lenient)
    return data


def check_kind(data: bytes) -> None:
    """Reject a JPEG of a kind that the decoder lacks. Raises ImageRejected."""
    at = 2
    while (found := _MARKER.search(data, at)) is not None and found.end() + 8 <= len(data):
        marker, at = data[found.end() - 1], found.end()
        if marker in (_SOS, _EOI):
            return
        if marker in _FRAMES:
            precision = data[at + 2]
            kind = _UNSUPPORTED.get(marker) or (f"{precision}-bit" if precision > 8 else "")
            if not kind and (channels := data[at + 7]) not in (0, 1, 3, 4):
                kind = f"{channels} colour channels"
            if kind:
                raise ImageRejected(
                    f"it is a JPEG of a rare kind ({kind}), which is not supported; "
                    "export it as an ordinary JPEG or as PNG"
                )
            return
        if marker not in _STANDALONE:
            at += int.from_bytes(data[at : at + 2], "big")


def _walk(data: bytes, layout: _Layout) -> None:
    """Read the segments up to the end marker. Raises Incomplete, and errors of reading."""
    at = 2
    while (found := _MARKER.search(data, at)) is not None:
        _check_between(data, at, found.start())
        marker, at = data[found.end() - 1], found.end()
        if marker == _EOI:
            layout.end = at
            return
        if marker in _STANDALONE:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        if at + length > len(data):
            raise Incomplete(CUT)
        body, at = data[at + 2 : at + length], at + length
        if marker == _SOS:
            ended = _SCAN_END.search(data, at)
            end = ended.start() if ended else len(data)
            layout.add_scan(body, at, end)
            at = end
        else:
            layout.add_segment(marker, body)


def _check_between(data: bytes, begin: int, end: int) -> None:
    """Between segments decoders pass over anything, also zeros: these are a hole."""
    if zeros.longest(data, begin, end):
        raise Incomplete(EMPTY)


def _read_frame(marker: int, body: bytes) -> _Frame:
    _, height, width, count = struct.unpack_from(">BHHB", body)
    components = {
        body[at]: _Component(body[at + 1] >> 4, body[at + 1] & 15)
        for at in range(6, 6 + 3 * count, 3)
    }
    return _Frame(marker, width, height, components, {each: [_UNSEEN] * 64 for each in components})


def _check_quantizers(body: bytes) -> None:
    """A divisor of zero is not allowed; it shows a hole that hit only this segment."""
    at = 0
    while at < len(body):
        size = 2 if body[at] >> 4 else 1
        table = body[at + 1 : at + 1 + 64 * size]
        if any(not any(table[i : i + size]) for i in range(0, len(table), size)):
            raise Incomplete(EMPTY)
        at += 1 + 64 * size


def _read_huffman_tables(body: bytes) -> dict[int, bytes]:
    """Return each table's symbols, of which the first has the code of zeros. Raises Incomplete."""
    found, at = {}, 0
    while at < len(body):
        symbols = body[at + 17 : at + 17 + sum(body[at + 1 : at + 17])]
        if not symbols or len(set(symbols)) != len(symbols) or body[at] & 0xEC:
            raise Incomplete(EMPTY)
        found[body[at]] = symbols
        at += 17 + len(symbols)
    if at != len(body):
        raise Incomplete(EMPTY)
    return found


def _read_scan(frame: _Frame, body: bytes) -> int:
    """Note which bits of which coefficients a scan gives; return its number of coding units."""
    count = body[0]
    chosen = [body[at] for at in range(1, 1 + 2 * count, 2)]
    first, last, approximation = body[1 + 2 * count : 4 + 2 * count]
    if frame.marker not in _PROGRESSIVE:
        first, last, approximation = 0, 63, 0
    for each in chosen:
        frame.left[each][first : last + 1] = [approximation & 15] * (last + 1 - first)
    return frame.units(chosen)


def _zeros_are_even(tables: Mapping[int, bytes]) -> bool:
    """Return True if all codes of zeros in a scan mean "as before": no difference, end of block.

    Only then large even areas are runs of zeros. In tables that are usual otherwise, they would
    mean the same coefficient again and again. Tables that are not there count as even.
    """
    return not any(symbols[0] & (15 if number >> 4 else 0xFF) for number, symbols in tables.items())


def _tables_of(body: bytes, tables: Mapping[int, bytes]) -> dict[int, bytes]:
    """Return the Huffman tables that a scan uses: those above 15 are of AC coefficients."""
    count = body[0]
    first, last, refines = body[1 + 2 * count], body[2 + 2 * count], body[3 + 2 * count] >> 4
    used: set[int] = set()
    for at in range(2, 2 + 2 * count, 2):
        if first == 0 and not refines:
            used.add(body[at] >> 4)
        if last:
            used.add(0x10 | body[at] & 15)
    return {number: tables[number] for number in used & tables.keys()}


def _with_end(data: bytes, layout: _Layout) -> tuple[bytes, _Layout]:
    """Add the end marker to a picture that has all of its pixels. Raises Incomplete.

    Copies that were not finished may end in zeros instead of the marker.
    """
    if layout.frame is None or layout.enough is None:
        raise Incomplete(CUT)
    scan = layout.scans[layout.enough - 1]
    end = len(data[: scan.end].rstrip(b"\0"))
    if data[end - 1] == 0xFF:  # the first half of the marker
        end -= 1
    whole = data[:end] + b"\xff\xd9"
    scan = scan._replace(end=end)
    if not scan.has_restarts(whole) or not reads_no_further(*_codes(whole, scan.begin, end)):
        raise Incomplete(CUT)
    scans = [*layout.scans[: layout.enough - 1], scan]
    return whole, _Layout(layout.frame, scans, len(whole))


def _check_runs(data: bytes, frame: _Frame, scans: list[_Scan], *, lenient: bool) -> None:
    """Reject scans with a hole. The longest run of zeros is probed: it may be an even area."""
    runs = [(run, scan) for scan in scans if (run := zeros.longest(data, scan.begin, scan.end))]
    if not runs:
        return
    if frame.lacks_bits() or not all(scan.even and scan.has_restarts(data) for _, scan in runs):
        raise Incomplete(EMPTY)
    run, scan = max(runs, key=lambda each: each[0][1] - each[0][0])
    if frame.marker in _ARITHMETIC:  # where its codes end cannot be seen
        if not lenient or zeros.is_unwritten(data, run):
            raise Incomplete(EMPTY)
        return
    if scan.constant:
        return
    ended = _INTERVAL_END.search(data, run[1], scan.end)
    if not is_used_exactly(*_codes(data, scan.begin, ended.start() if ended else scan.end)):
        raise Incomplete(EMPTY)


def _codes(data: bytes, begin: int, end: int) -> tuple[bytes, Build]:
    """Return this part's codes, and how to put others in their place."""
    return data[begin:end], lambda codes: data[:begin] + codes + data[end:]
