"""Framing: which part of a picture a clip shows, and where, in whole pixels.

The reference pipeline floors a float division and so leaves a black edge of one pixel at about
40 % of all sizes. Here boxes are whole pixels within the picture and always fill the target.
Decoding and scaling are decode.py's and colour.py's.
"""

from pipeline.request.spec import Framing

Box = tuple[int, int, int, int]
"""left, upper, right, lower in pixels, as in Pillow: right and lower are exclusive."""


def crop_box(source: tuple[int, int], target: tuple[int, int]) -> Box:
    """Return the largest centred box of `source` (width, height) with the target's aspect."""
    across = min(source[0], max(1, _divide_rounded(source[1] * target[0], target[1])))
    down = min(source[1], max(1, _divide_rounded(source[0] * target[1], target[0])))
    return _centre((across, down), source)


def fit_box(source: tuple[int, int], target: tuple[int, int]) -> Box:
    """Return the largest centred box in the target with the source's aspect."""
    across = min(target[0], max(1, _divide_rounded(target[1] * source[0], source[1])))
    down = min(target[1], max(1, _divide_rounded(target[0] * source[1], source[0])))
    return _centre((across, down), target)


def kept_fraction(
    source: tuple[int, int], width: int, height: int, framing: Framing = "crop"
) -> float:
    """Return the visible share of the picture's area in a clip of width x height."""
    if framing != "crop":
        return 1.0
    left, upper, right, lower = crop_box(source, (width, height))
    return (right - left) * (lower - upper) / (source[0] * source[1])


def _divide_rounded(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


def _centre(size: tuple[int, int], within: tuple[int, int]) -> Box:
    left, upper = (within[0] - size[0]) // 2, (within[1] - size[1]) // 2
    return left, upper, left + size[0], upper + size[1]
