"""Transfer curves: from a code in 0..1 to light in 0..1, where 1 is the white of sRGB.

Those of HDR map tones too: the brightness of paper, 203 cd/m², becomes white (ITU-R BT.2408), and
what is brighter, up to 1000 cd/m², is rolled off below it (ITU-R BT.2390, EETF). Each channel is
mapped by itself, so that very bright colours lose saturation and none changes its order.
"""

import math
from collections.abc import Callable
from functools import lru_cache

Curve = Callable[[float], float]

_PAPER_WHITE = 203.0
_PEAK = 1000.0
"""Brightest light in cd/m² that is kept apart from white: the usual mastering display's."""

_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
"""Constants of the perceptual quantizer, SMPTE ST 2084."""

_A, _B, _C = 0.17883277, 0.28466892, 0.55991073
"""Constants of hybrid log-gamma, ITU-R BT.2100."""


def srgb(code: float) -> float:
    """IEC 61966-2-1."""
    return code / 12.92 if code <= 0.04045 else ((code + 0.055) / 1.055) ** 2.4


def linear(code: float) -> float:
    """Light as it is."""
    return code


@lru_cache(maxsize=64)
def power(exponent: float) -> Curve:
    """Return the curve of a display with this gamma."""
    return lambda code: code**exponent


def pq(code: float) -> float:
    """Perceptual quantizer (SMPTE ST 2084), mapped to the range of a usual display."""
    return _map_tone(code)


def hlg(code: float) -> float:
    """Hybrid log-gamma (ARIB STD-B67), mapped to the range of a usual display.

    The system gamma of 1.2 is that of a display of 1000 cd/m². It is applied to each channel.
    """
    scene = code * code / 3 if code <= 0.5 else (math.exp((code - _C) / _A) + _B) / 12
    return _map_tone(_to_pq(_PEAK * scene**1.2))


def _map_tone(code: float) -> float:
    """Return the light of a PQ code, rolled off above the knee: the EETF of ITU-R BT.2390-11.

    Section 5.4.1, without lifting black.
    """
    peak = _to_pq(_PEAK)
    white = _to_pq(_PAPER_WHITE) / peak
    knee = 1.5 * white - 0.5
    level = min(1.0, code / peak)
    if level > knee:
        t = (level - knee) / (1 - knee)
        level = (
            (2 * t**3 - 3 * t**2 + 1) * knee
            + (t**3 - 2 * t**2 + t) * (1 - knee)
            + (-2 * t**3 + 3 * t**2) * white
        )
    return _from_pq(level * peak) / _PAPER_WHITE


def _to_pq(light: float) -> float:
    """Return the PQ code of a light in cd/m²."""
    y = (light / 10_000) ** _M1
    return float(((_C1 + _C2 * y) / (1 + _C3 * y)) ** _M2)


def _from_pq(code: float) -> float:
    """Return the light in cd/m² of a PQ code."""
    e = code ** (1 / _M2)
    return float(10_000 * (max(e - _C1, 0.0) / (_C2 - _C3 * e)) ** (1 / _M1))
