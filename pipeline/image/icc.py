"""ICC profiles made here, for colours that a file names otherwise.

One mechanism for all: primaries and a transfer curve become a matrix profile, which littlecms
applies as any other. Specification: ICC.1:2001-04 (version 2).
"""

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
_ENTRIES = 255 * 16 + 1
"""Entries of a curve: every code of eight bits is one of them."""

Vector = tuple[float, float, float]
Matrix = tuple[Vector, Vector, Vector]
Point = tuple[float, float]


class Primaries(NamedTuple):
    """Chromaticities (x, y) of red, green, blue and white."""

    red: Point
    green: Point
    blue: Point
    white: Point


D65 = (0.3127, 0.3290)
BT709 = Primaries((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), D65)
"""Also those of sRGB."""
BT2020 = Primaries((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), D65)
P3 = Primaries((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), D65)
DCI_P3 = P3._replace(white=(0.314, 0.351))
ADOBE = Primaries((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), D65)


@lru_cache(maxsize=32)
def build(primaries: Primaries, curve: Callable[[float], float]) -> bytes:
    """Return a profile whose `curve` maps a code in 0..1 to light in 0..1.

    Raises ValueError if the primaries span no colours.
    """
    red, green, blue = _transpose(_to_pcs(primaries))
    light = [min(1.0, max(0.0, curve(code / (_ENTRIES - 1)))) for code in range(_ENTRIES)]
    words = [round(each * 65535) for each in light]
    trc = b"curv\0\0\0\0" + struct.pack(f">I{_ENTRIES}H", _ENTRIES, *words)
    return _assemble(
        {
            b"desc": b"desc\0\0\0\0\0\0\0\1\0".ljust(92, b"\0"),
            b"cprt": b"text\0\0\0\0\0",
            b"wtpt": _xyz(_D50),
            b"rXYZ": _xyz(red),
            b"gXYZ": _xyz(green),
            b"bXYZ": _xyz(blue),
            b"rTRC": trc,
            b"gTRC": trc,
            b"bTRC": trc,
        }
    )


def _to_pcs(primaries: Primaries) -> Matrix:
    """Return the matrix from linear RGB to XYZ under D50.

    The white point is adapted by the Bradford transform.
    """
    red, green, blue, white = map(_from_xy, primaries)
    columns = _transpose((red, green, blue))
    scale = _apply(_invert(columns), white)
    to_xyz = _multiply(columns, _diagonal(scale))
    ours, theirs = _apply(_BRADFORD, _D50), _apply(_BRADFORD, white)
    gains = _diagonal((ours[0] / theirs[0], ours[1] / theirs[1], ours[2] / theirs[2]))
    return _multiply(_multiply(_invert(_BRADFORD), _multiply(gains, _BRADFORD)), to_xyz)


def _from_xy(point: Point) -> Vector:
    x, y = point
    if y <= 0:
        raise ValueError(point)
    return x / y, 1.0, (1 - x - y) / y


def _apply(matrix: Matrix, vector: Vector) -> Vector:
    a, b, c = (sum(m * v for m, v in zip(row, vector, strict=True)) for row in matrix)
    return a, b, c


def _transpose(matrix: Matrix) -> Matrix:
    a, b, c = zip(*matrix, strict=True)
    return a, b, c


def _multiply(left: Matrix, right: Matrix) -> Matrix:
    a, b, c = (_apply(left, column) for column in _transpose(right))
    return _transpose((a, b, c))


def _diagonal(vector: Vector) -> Matrix:
    a, b, c = vector
    return (a, 0.0, 0.0), (0.0, b, 0.0), (0.0, 0.0, c)


def _invert(matrix: Matrix) -> Matrix:
    (a, b, c), (d, e, f), (g, h, i) = matrix
    determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    if abs(determinant) < 1e-9:
        raise ValueError(matrix)
    rows = (
        (e * i - f * h, c * h - b * i, b * f - c * e),
        (f * g - d * i, a * i - c * g, c * d - a * f),
        (d * h - e * g, b * g - a * h, a * e - b * d),
    )
    x, y, z = ((p / determinant, q / determinant, r / determinant) for p, q, r in rows)
    return x, y, z


def _xyz(vector: Sequence[float]) -> bytes:
    numbers = [round(min(32767.0, max(-32768.0, each)) * 65536) for each in vector]
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *numbers)


def _assemble(tags: dict[bytes, bytes]) -> bytes:
    """Return a profile of these tags; equal bodies are stored once."""
    at = 128 + 4 + 12 * len(tags)
    table, bodies, places = b"", b"", dict[bytes, int]()
    for name, body in tags.items():
        if body not in places:
            places[body] = at + len(bodies)
            bodies += body + b"\0" * (-len(body) % 4)
        table += name + struct.pack(">II", places[body], len(body))
    head = struct.pack(
        ">I4xI4s4s4s12x4s40x3i",
        at + len(bodies),
        0x02400000,
        b"mntr",
        b"RGB ",
        b"XYZ ",
        b"acsp",
        *(round(each * 65536) for each in _D50),
    )
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + bodies
