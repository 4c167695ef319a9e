"""Colour conversion: a decoded picture of any mode and size to sRGB at the clip's size.

Runs in the image child. framing.py computes the boxes.
"""

import contextlib
import io
import math
from typing import Any, cast

from PIL import Image, ImageChops, ImageCms, ImageFilter

from pipeline.image.framing import Box, crop_box, fit_box
from pipeline.request.spec import Framing

_WHITE = (255, 255, 255)
"""Background of transparent pictures: cut-outs and drawings expect a white page, and the video
model is weak on black."""

_GREY = (128, 128, 128)
"""Bars beside a fitted picture; black bars would weaken the motion."""

_SRGB = ImageCms.createProfile("sRGB")


class UnsupportedColours(Exception):
    """Colour mode that cannot be converted to sRGB."""


def apply_framing(
    image: Image.Image, profile: bytes, width: int, height: int, framing: Framing
) -> Image.Image:
    """Frame the image to exactly width x height pixels of opaque sRGB without metadata.

    `profile` is its ICC profile, or empty. Raises UnsupportedColours, MemoryError.
    """
    try:
        image = _to_scalable(image)
    except (ValueError, OSError) as error:
        raise UnsupportedColours(image.mode) from error

    def scale_to(size: tuple[int, int], box: Box) -> Image.Image:
        small = image.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
        return _to_srgb(small, profile)

    target = (width, height)
    cover = crop_box(image.size, target)
    if framing == "crop":
        return _strip_metadata(scale_to(target, cover))
    left, upper, right, lower = fit_box(image.size, target)
    whole = scale_to((right - left, lower - upper), (0, 0, *image.size))
    if framing == "fit":
        background = Image.new("RGB", target, _GREY)
    else:
        blur = ImageFilter.GaussianBlur(min(target) / 16)
        background = scale_to(target, cover).filter(blur)
    background.paste(whole, (left, upper))
    return _strip_metadata(background)


def _to_scalable(image: Image.Image) -> Image.Image:
    """Convert to a mode that can be scaled, without transparency: L, RGB, CMYK or LAB."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = _to_eight_bit(image)
        if isinstance(key := image.info.get("transparency"), int):
            grey.paste(_WHITE[0], mask=_mask_deep(image, key))
        return grey
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        page = Image.new("RGB", image.size, _WHITE)
        page.paste(image, mask=image.getchannel("A"))
        return page
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _to_eight_bit(image: Image.Image) -> Image.Image:
    """Scale deep greys to 8 bits by their assumed range; Pillow's conversion would clip them."""
    deep = image if image.mode == "F" else image.convert("I")
    least, most = cast("tuple[float, float]", deep.getextrema())
    if image.mode.startswith("I;16"):
        most = 65535
    elif not (math.isfinite(least) and math.isfinite(most)):
        raise ValueError("values that are not numbers")
    limits = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    white = next((limit for limit in limits if most <= limit), most)
    if image.mode == "F" and _has_highlights(image):
        white = 1.0
    scale = 255.0 / white
    return deep.convert("F").point(lambda value: value * scale + 0.5).convert("L")


def _has_highlights(image: Image.Image) -> bool:
    """Return True if floating-point greys are meant from 0 to 1, though some are brighter.

    Light sources are, and edges after sharpening. Most of what is not black is below 2 then.
    """
    pixels = image.width * image.height
    black = image.point(lambda value: value * 255.0 + 0.0).convert("L").histogram()[0]
    bright = pixels - sum(image.convert("L").histogram()[:2])
    return 2 * bright < pixels - black


def _mask_deep(image: Image.Image, key: int) -> Image.Image:
    """Return where greys of 16 bits equal `key`, as a mask; the modes of Pillow compare bytes."""
    data = image.convert("I;16").tobytes()
    low, high = Image.frombytes("LA", image.size, data).split()
    is_low = low.point([255 * (byte == key & 255) for byte in range(256)])
    is_high = high.point([255 * (byte == key >> 8) for byte in range(256)])
    return ImageChops.darker(is_low, is_high)


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert to sRGB. A profile that is broken or of another colour space is ignored."""
    if image.mode == "LAB":
        source: Any = ImageCms.createProfile("LAB")
    else:
        source = io.BytesIO(profile) if profile else None
    if image.mode == "L" and profile[16:20] == b"RGB ":
        image = image.convert("RGB")
    if source is not None:
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError):
            converted = ImageCms.profileToProfile(image, source, _SRGB, outputMode="RGB")
            if converted is not None:
                return converted
    return image.convert("RGB")


def _strip_metadata(image: Image.Image) -> Image.Image:
    """Drop metadata: Pillow would also save a profile, resolution or transparent colour."""
    image.info = {}
    return image
