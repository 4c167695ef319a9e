"""TIFF layouts: from samples to pixels, where Pillow knows no way or a wrong one.

libtiff unpacks every TIFF: it gives samples in the machine's byte order, and joins the planes of
colours. Pillow's table of layouts is corrected once, at import. Other layouts are refused by name.
"""

import sys
from collections.abc import Callable, Mapping

from PIL import Image, TiffImagePlugin

from pipeline.image.errors import ImageRejected, unsupported

Tags = Mapping[int, tuple[int, ...]]

_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES = 258, 259, 262, 277
_PLANAR, _EXTRA, _FORMAT = 284, 338, 339

_INVERTED_GREY, _GREY, _RGB, _CMYK, _LAB = 0, 1, 2, 5, 8
"""Values of PhotometricInterpretation."""
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
"""Values of SampleFormat."""
_UNRELATED, _PREMULTIPLIED, _ALPHA = 0, 1, 2
"""Values of ExtraSamples."""
_PLANES = 2
"""Value of PlanarConfiguration."""

_COLOURS = {
    0: ("grey", 1), 1: ("grey", 1), 2: ("RGB", 3), 3: ("palette", 1), 4: ("mask", 1),
    5: ("CMYK", 4), 6: ("YCbCr", 3), 8: ("Lab", 3), 9: ("Lab", 3), 10: ("Lab", 3),
    32803: ("camera raw", 1), 32844: ("LogL", 1), 32845: ("LogLuv", 3),
    34892: ("camera raw", 3),
}  # fmt: skip
"""Name of each PhotometricInterpretation, and its samples without ExtraSamples."""
_COMPRESSION_NAMES = {
    32766: "NeXT", 32908: "PIXAR film", 32909: "PIXAR log", 34661: "JBIG", 34712: "JPEG 2000",
    34887: "LERC", 34892: "lossy JPEG", 50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
_MAX_BITS, _MAX_SAMPLES = 64, 64


def _correct_table() -> None:
    """Take from Pillow's table what it decodes wrong; add what it decodes with `restore`.

    A value of the table has the mode of the picture, and the layout from which it is filled.
    """
    table = TiffImagePlugin.OPEN_INFO
    wrong = {
        (_GREY, _SIGNED, 16),  # its range is unknown: programs do not agree on it
        (_GREY, _UNSIGNED, 32),  # half of its range would be negative
        (_INVERTED_GREY, _FLOAT, 32),  # would not be inverted
    }
    for key in [key for key in table if (key[1], key[2][0], key[4][0]) in wrong]:
        del table[key]
    for order in (b"II", b"MM"):
        table[order, _GREY, (_SIGNED,), 1, (32,), ()] = ("I", "I;32NS")
        table[order, _GREY, (_FLOAT,), 1, (32,), ()] = ("F", "F;32NF")
        table[order, _GREY, (_UNSIGNED,), 1, (12,), ()] = ("I;16", "I;12")
        table[order, _INVERTED_GREY, (_UNSIGNED,), 1, (16,), ()] = ("I;16", "I;16")
        table[order, _LAB, (_UNSIGNED,), 1, (16, 16, 16), ()] = ("RGB", "RGB;16L")
        for extra in (_UNRELATED, _PREMULTIPLIED, _ALPHA):
            table[order, _GREY, (_UNSIGNED,), 1, (16, 16), (extra,)] = ("RGBA", "RGBA")


TiffImagePlugin.READ_LIBTIFF = True
_correct_table()


def restore(image: Image.Image, tags: Tags) -> Image.Image:
    """Return the picture of a loaded TIFF in the mode of its colours."""
    bits = tags.get(_BITS, (1,))
    if len(bits) == 1:
        bits *= tags.get(_SAMPLES, (1,))[0]
    restored = _RESTORED.get((tags.get(_PHOTOMETRIC, (0,))[0], bits))
    return restored(image, tags) if restored else image


def _widen(image: Image.Image, _: Tags) -> Image.Image:
    """Spread 12 bits over the range of 16."""
    return image.point(lambda value: value * (65535 / 4095))


def _invert(image: Image.Image, _: Tags) -> Image.Image:
    return image.point(lambda value: value * -1 + 65535)


def _split_grey_and_alpha(image: Image.Image, tags: Tags) -> Image.Image:
    """Take the high bytes of two 16-bit samples, which were read as one pixel of four bytes."""
    high = 1 if sys.byteorder == "little" else 0
    grey, alpha = image.getchannel(high), image.getchannel(high + 2)
    extra = tags[_EXTRA][0]
    if extra == _UNRELATED:
        return grey
    return Image.merge("La" if extra == _PREMULTIPLIED else "LA", (grey, alpha))


def _as_lab(image: Image.Image, _: Tags) -> Image.Image:
    """Take the high bytes, which were read as RGB, as what they are; a and b are signed."""
    return Image.frombytes("LAB", image.size, image.tobytes())


_RESTORED: dict[tuple[int, tuple[int, ...]], Callable[[Image.Image, Tags], Image.Image]] = {
    (_GREY, (12,)): _widen,
    (_INVERTED_GREY, (16,)): _invert,
    (_GREY, (16, 16)): _split_grey_and_alpha,
    (_LAB, (16, 16, 16)): _as_lab,
}


def check_planes(tags: Tags) -> None:
    """Reject planes that libtiff and Pillow do not join. Raises ImageRejected."""
    by_planes = tags.get(_PLANAR) == (_PLANES,) and tags.get(_SAMPLES, (1,))[0] > 1
    if by_planes and tags.get(_PHOTOMETRIC, (0,))[0] not in (_RGB, _CMYK):
        raise unsupported("TIFF", _describe(tags))


def name_unknown(tags: Tags) -> ImageRejected | None:
    """Return the refusal of a TIFF that Pillow could not open; None if its tags are unsound."""
    packing = tags.get(_COMPRESSION, (1,))[0]
    if name := _COMPRESSION_NAMES.get(packing):
        return unsupported("TIFF", f"compressed by {name}")
    layout = _describe(tags)
    return unsupported("TIFF", layout) if layout else None


def _describe(tags: Tags) -> str:
    """Return the layout in words, such as "RGB, 32-bit floating-point"; empty if it is unsound."""
    colours, expected = _COLOURS.get(tags.get(_PHOTOMETRIC, (0,))[0], ("", 0))
    bits, samples = tags.get(_BITS, (1,)), tags.get(_SAMPLES, (1,))[0]
    is_sound = expected <= samples <= _MAX_SAMPLES and all(0 < each <= _MAX_BITS for each in bits)
    if not colours or not is_sound:
        return ""
    has_alpha = tags.get(_EXTRA, ())[:1] in ((_PREMULTIPLIED,), (_ALPHA,))
    layout = f"{colours} with alpha" if has_alpha else colours
    if samples > expected + has_alpha:
        layout = f"{layout} and more channels"
    depth = "/".join(map(str, sorted(set(bits))))
    match tags.get(_FORMAT, (_UNSIGNED,))[0]:
        case 2:
            layout = f"{layout}, {depth}-bit signed"
        case 3:
            layout = f"{layout}, {depth}-bit floating-point"
        case _:
            layout = f"{layout}, {depth}-bit"
    return f"{layout}, in planes" if tags.get(_PLANAR) == (_PLANES,) else layout
