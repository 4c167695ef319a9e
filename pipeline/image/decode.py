"""Decode: from untrusted bytes to an upright picture, or to a sentence why not."""

import io
import sys
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import pillow_heif
from PIL import (
    AvifImagePlugin,  # noqa: F401  # importing a plugin makes its format known to Image.open
    BmpImagePlugin,  # noqa: F401
    ExifTags,
    GifImagePlugin,  # noqa: F401
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from pipeline.image import completeness, tiff_layout
from pipeline.image.caption import read_caption
from pipeline.image.colour_space import find_profile
from pipeline.image.containers import tiff
from pipeline.image.errors import CUT, DAMAGED, EMPTY, ImageRejected, Incomplete, unsupported
from pipeline.image.formats import DECODED, KNOWN, find_by_content, find_decoded
from pipeline.image.limits import clear_errno, is_out_of_memory

pillow_heif.register_heif_opener()

_MIN_SIDE_PIXELS = 16
_SIGNATURE_BYTES = 12
_HEAD_BYTES = 16
"""Zeros of this length at the beginning or behind the signature were not written yet."""
_PILLOWS_BMP_REFUSAL = "unsupported bmp "
_PLUGINS = tuple(each.plugin for each in DECODED)
_NAMES = {each.plugin: each.name for each in DECODED} | {"MPO": "JPEG"}

_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transpose that undoes each EXIF orientation."""


class DecodedImage(NamedTuple):
    """Decoded picture, upright. `size` is its true (width, height); `image` may be smaller.

    `profile` is the ICC profile of its colours; empty if they are sRGB.
    """

    image: Image.Image
    size: tuple[int, int]
    format: str
    profile: bytes
    caption: str


def decode(data: bytes, *, needed: int, lenient: bool = False) -> DecodedImage:
    """Decode a whole picture. Raises ImageRejected, MemoryError.

    A JPEG may be decoded at a reduced size, with both sides at least `needed` pixels. `lenient`:
    the end may be missing if all pixels are there.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            whole = _whole(data, lenient=lenient)
            clear_errno()
            return _decode(data, whole, needed)
        except (ImageRejected, MemoryError):
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ImageRejected(_too_many_pixels()) from error
        except Exception as error:  # decoders raise any type
            reason = _classify(error)  # before anything else changes C's errno
            print(repr(error)[:500], file=sys.stderr)
            raise reason from error


def _whole(data: bytes, *, lenient: bool) -> bytes:
    """Return the data to decode, of which every pixel is there. Raises ImageRejected."""
    found = find_decoded(data)
    if found is not None:
        completeness.check_kind(found.name, data)
        return completeness.check(found.name, data, lenient=lenient)
    other = find_by_content(data)
    if other is None:
        if len(data) < _SIGNATURE_BYTES:
            raise Incomplete(CUT)
        if not any(data[:_HEAD_BYTES]) or data[_SIGNATURE_BYTES:].startswith(b"\0" * _HEAD_BYTES):
            raise Incomplete(EMPTY)
    raise ImageRejected(f"it is not a picture in {KNOWN}, but {other or 'something else'}")


def _classify(error: Exception) -> ImageRejected | MemoryError:
    text = str(error).lower()
    if "maximum image size" in text:  # libheif's own limit
        return ImageRejected(_too_many_pixels())
    if is_out_of_memory(error):
        return MemoryError()
    if text.startswith(_PILLOWS_BMP_REFUSAL):
        return unsupported("BMP", text.removeprefix(_PILLOWS_BMP_REFUSAL))
    return Incomplete(CUT if "truncated" in text else DAMAGED)


def _decode(original: bytes, data: bytes, needed: int) -> DecodedImage:
    """Decode `data`, which has the pixels of the `original` and maybe less beside them."""
    tags = tiff.read_tags(data) if data.startswith((b"II", b"MM")) else {}
    image = _open(data, tags)
    if min(image.size) < _MIN_SIDE_PIXELS:
        raise ImageRejected(
            f"the picture is tiny ({image.width}x{image.height}); "
            f"allowed: from {_MIN_SIDE_PIXELS} pixels a side"
        )
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        size = image.size
        # the decoder scales by 1/2, 1/4 or 1/8, which saves time and memory
        image.draft(None, (needed, needed))
        image.load()
    else:
        image.load()
        size = image.size  # only now, because Pillow rotates a TIFF while loading
    if image.mode == "P" and image.palette is None:  # Pillow would fail an assertion later
        raise Incomplete(DAMAGED)
    pixels = tiff_layout.restore(image, tags)
    exif, name = _exif(image), _NAMES[image.format or ""]
    orientation = exif.get(ExifTags.Base.Orientation, 1)
    transpose = _TRANSPOSES.get(orientation) if isinstance(orientation, int) else None
    return DecodedImage(
        image=pixels if transpose is None else pixels.transpose(transpose),
        size=size[::-1] if transpose is not None and orientation >= 5 else size,
        format=name,
        profile=find_profile(name, original, image.info.get("icc_profile") or b"", exif),
        caption=read_caption(image, exif),
    )


def _open(data: bytes, tags: tiff_layout.Tags) -> ImageFile.ImageFile:
    """Open a picture; `tags`: of a TIFF. Raises ImageRejected, and what Pillow raises."""
    try:
        image = Image.open(io.BytesIO(data), formats=_PLUGINS)
    except UnidentifiedImageError as error:
        if tags and (refusal := tiff_layout.name_unknown(tags)):
            raise refusal from error
        raise
    tiff_layout.check_planes(tags)
    return image


def _too_many_pixels() -> str:
    most = (Image.MAX_IMAGE_PIXELS or 0) / 1e6
    return f"the picture has too many pixels; allowed: up to {most:g} million"


def _exif(image: ImageFile.ImageFile) -> Mapping[int, Any]:
    """Return the tags of the picture's directories, those of the first one first."""
    try:
        exif = image.getexif()
        return {**exif.get_ifd(ExifTags.IFD.Interop), **exif.get_ifd(ExifTags.IFD.Exif), **exif}
    except MemoryError:
        raise
    except Exception:  # a broken EXIF block does not affect the pixels
        return {}
