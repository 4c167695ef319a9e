"""Pixels: from a decoded picture of any colours and shape to sRGB of exactly the clip's size.

Runs in the picture child. Where things go is decided in framing.py, in whole pixels.
"""

import contextlib
import io
import math
from typing import Any, cast

from PIL import Image, ImageCms, ImageFilter

from pipeline.image.framing import Box, crop_box, fit_box
from pipeline.request.spec import Framing

_WHITE = (255, 255, 255)
"""Under transparency: cut-outs and drawings are made for a white page, and the video model is
weak on black."""

_GREY = (128, 128, 128)
"""Beside a picture that is fitted in; black bars would weaken the motion."""

_SRGB = ImageCms.createProfile("sRGB")


class UnsupportedColours(Exception):
    """The picture's colours are of a kind that nothing here can turn into sRGB."""


def framed(
    image: Image.Image, profile: bytes, width: int, height: int, framing: Framing
) -> Image.Image:
    """The image in exactly width x height pixels of sRGB, opaque, without metadata.

    `profile` is its ICC profile, or empty. Raises ColoursNotSupported, MemoryError.
    """
    try:
        image = _plain(image)
    except (ValueError, OSError) as error:
        raise UnsupportedColours(image.mode) from error

    def scaled(size: tuple[int, int], box: Box) -> Image.Image:
        small = image.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
        return _to_srgb(small, profile)

    target = (width, height)
    cover = crop_box(image.size, target)
    if framing == "crop":
        return _bare(scaled(target, cover))
    left, upper, right, lower = fit_box(image.size, target)
    whole = scaled((right - left, lower - upper), (0, 0, *image.size))
    if framing == "fit":
        ground = Image.new("RGB", target, _GREY)
    else:
        blur = ImageFilter.GaussianBlur(min(target) / 16)
        ground = scaled(target, cover).filter(blur)
    ground.paste(whole, (left, upper))
    return _bare(ground)


def _plain(image: Image.Image) -> Image.Image:
    """The picture in a mode that can be scaled, without transparency: L, RGB, CMYK or LAB."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _eight_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        page = Image.new("RGB", image.size, _WHITE)
        page.paste(image, mask=image.getchannel("A"))
        return page
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Deep greys, scaled by what their range must be; Pillow's own conversion would clip them."""
    deep = image if image.mode == "F" else image.convert("I")
    least, most = cast("tuple[float, float]", deep.getextrema())
    if image.mode.startswith("I;16"):
        most = 65535
    elif not (math.isfinite(least) and math.isfinite(most)):
        raise ValueError("values that are not numbers")
    limits = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    white = next((limit for limit in limits if most <= limit), most)
    scale = 255.0 / white
    return deep.convert("F").point(lambda value: value * scale + 0.5).convert("L")


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """The same colours in sRGB. A profile that is broken, or for other colours, is passed over."""
    if image.mode == "LAB":
        source: Any = ImageCms.createProfile("LAB")
    else:
        source = io.BytesIO(profile) if profile else None
    if source is not None:
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError):
            converted = ImageCms.profileToProfile(image, source, _SRGB, outputMode="RGB")
            if converted is not None:
                return converted
    return image.convert("RGB")


def _bare(image: Image.Image) -> Image.Image:
    """The pixels alone: Pillow would save a profile, a resolution or a transparent colour too."""
    image.info = {}
    return image
