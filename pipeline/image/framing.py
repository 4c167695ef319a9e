"""Framing: which part of a picture a clip shows, and where. Whole pixels, no decoding here.

The reference pipeline floors a float division and so leaves a black edge of one pixel at about
40 % of all sizes; here a box is whole pixels within the picture, and always fills what it should.
"""

from pipeline.request.spec import Framing

Box = tuple[int, int, int, int]
"""left, upper, right, lower in pixels, as Pillow has it: right and lower stand outside."""


def crop_box(source: tuple[int, int], target: tuple[int, int]) -> Box:
    """The largest part of a `source` of (width, height), from its middle, in the target's shape."""
    across = min(source[0], max(1, _rounded(source[1] * target[0], target[1])))
    down = min(source[1], max(1, _rounded(source[0] * target[1], target[0])))
    return _centred((across, down), source)


def fit_box(source: tuple[int, int], target: tuple[int, int]) -> Box:
    """Where the whole source goes in the target: as large as it can be, in the middle."""
    across = min(target[0], max(1, _rounded(target[1] * source[0], source[1])))
    down = min(target[1], max(1, _rounded(target[0] * source[1], source[0])))
    return _centred((across, down), target)


def kept_fraction(
    source: tuple[int, int], width: int, height: int, framing: Framing = "crop"
) -> float:
    """How much of the picture's area is seen in a clip of width x height; 1.0 is all of it."""
    if framing != "crop":
        return 1.0
    left, upper, right, lower = crop_box(source, (width, height))
    return (right - left) * (lower - upper) / (source[0] * source[1])


def _rounded(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


def _centred(size: tuple[int, int], within: tuple[int, int]) -> Box:
    left, upper = (within[0] - size[0]) // 2, (within[1] - size[1]) // 2
    return left, upper, left + size[0], upper + size[1]
