"""Colour space: which colours a picture's numbers mean, as an ICC profile.

Each format has its own order of precedence. What is broken or unknown is passed over; then sRGB is
assumed, as everywhere.
"""

import struct
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags

from pipeline.image import icc, transfer
from pipeline.image.containers import bmp, heif, png

SRGB = b""
"""No profile: the numbers are sRGB already."""

_PRIMARIES = {
    1: icc.BT709,
    4: icc.Primaries((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), (0.310, 0.316)),
    5: icc.Primaries((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), icc.D65),
    6: icc.Primaries((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), icc.D65),
    7: icc.Primaries((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), icc.D65),
    8: icc.Primaries((0.681, 0.319), (0.243, 0.692), (0.145, 0.049), (0.310, 0.316)),
    9: icc.BT2020,
    11: icc.DCI_P3,
    12: icc.P3,
    22: icc.Primaries((0.630, 0.340), (0.295, 0.605), (0.155, 0.077), icc.D65),
}
"""Primaries by their code point in ITU-T H.273."""

_CURVES: dict[int, transfer.Curve] = {
    4: transfer.power(2.2),
    5: transfer.power(2.8),
    8: transfer.linear,
    16: transfer.pq,
    18: transfer.hlg,
}
"""Transfer curves by their code point, as far as they differ from that of sRGB. Those of television
(1, 6, 14, 15) count as sRGB: they describe cameras, and the pictures were made on such displays."""

_ADOBE_GAMMA = 563 / 256
_EXIF_ADOBE, _EXIF_UNCALIBRATED = 2, 0xFFFF
_WHITE_POINT, _PRIMARY_CHROMATICITIES = 318, 319


def find_profile(format_name: str, data: bytes, embedded: bytes, exif: Mapping[int, Any]) -> bytes:
    """Return the profile of a picture's numbers; SRGB if they are sRGB, or if nothing is said.

    `embedded` is the profile that Pillow found, or empty; `exif` has the tags of all directories.
    """
    if format_name == "PNG":
        return _of_png(png.read_colours(data)) or _of_exif(exif)
    if format_name == "BMP":
        return bmp.read_profile(data)
    if embedded:
        return embedded
    if format_name in ("HEIC", "AVIF"):
        points = heif.read_code_points(data)
        return _of_code_points(points.primaries, points.transfer) if points else SRGB
    return _of_exif(exif)


def _of_png(chunks: Mapping[bytes, bytes]) -> bytes:
    """Follow the precedence of PNG's third edition: cICP, iCCP, sRGB, then gAMA and cHRM."""
    if len(points := chunks.get(b"cICP", b"")) == 4:
        return _of_code_points(points[0], points[1])
    if profile := chunks.get(b"iCCP"):
        return profile
    if b"sRGB" in chunks:
        return SRGB
    curve: transfer.Curve = transfer.srgb
    primaries = icc.BT709
    if len(body := chunks.get(b"cHRM", b"")) == 32:
        values = [value / 100_000 for value in struct.unpack(">8I", body)]
        primaries = _primaries(values[:2], values[2:])
    if len(body := chunks.get(b"gAMA", b"")) == 4:
        gamma = int.from_bytes(body, "big") / 100_000
        is_srgb = abs(gamma * 2.2 - 1) < 0.05 and _are_srgb(primaries)  # 1/2.2 stands for its curve
        if 0.1 <= gamma <= 10 and not is_srgb:
            curve = transfer.power(round(1 / gamma, 4))
    return _build(primaries, curve)


def _of_exif(exif: Mapping[int, Any]) -> bytes:
    """Read what cameras say (Adobe RGB), and what TIFF has for it (primaries)."""
    space = exif.get(ExifTags.Base.ColorSpace)
    index = str(exif.get(ExifTags.Interop.InteropIndex, "")).strip("\0 ")
    if space == _EXIF_ADOBE or (space in (None, _EXIF_UNCALIBRATED) and index == "R03"):
        return _build(icc.ADOBE, transfer.power(_ADOBE_GAMMA))
    try:
        white = [float(value) for value in exif[_WHITE_POINT]]
        others = [float(value) for value in exif[_PRIMARY_CHROMATICITIES]]
        return _build(_primaries(white, others), transfer.srgb)
    except (KeyError, TypeError, ValueError, ZeroDivisionError, IndexError):
        return SRGB


def _of_code_points(primaries: int, curve: int) -> bytes:
    return _build(_PRIMARIES.get(primaries, icc.BT709), _CURVES.get(curve, transfer.srgb))


def _primaries(white: list[float], others: list[float]) -> icc.Primaries:
    red, green, blue = ((others[at], others[at + 1]) for at in (0, 2, 4))
    return icc.Primaries(red, green, blue, (white[0], white[1]))


def _build(primaries: icc.Primaries, curve: transfer.Curve) -> bytes:
    if curve is transfer.srgb and _are_srgb(primaries):
        return SRGB
    try:
        return icc.build(primaries, curve)
    except (ValueError, ZeroDivisionError):  # primaries that span no colours
        return SRGB


def _are_srgb(primaries: icc.Primaries) -> bool:
    return all(
        abs(a - b) < 0.002
        for point, ours in zip(primaries, icc.BT709, strict=True)
        for a, b in zip(point, ours, strict=True)
    )
