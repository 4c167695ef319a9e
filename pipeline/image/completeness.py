"""Completeness: is the whole picture there, whatever a decoder makes of it?

Decoders take zeros for codes and fill what is missing, so a picture that decodes may still be half
a copy. Each format's layout is read by its file in containers/, in time linear in its size.
"""

from collections.abc import Callable

from pipeline.image.containers import bmp, gif, heif, jpeg, png, tiff, webp

_KINDS: dict[str, Callable[[bytes], None]] = {
    "JPEG": jpeg.check_kind,
    "PNG": png.check_kind,
    "TIFF": tiff.check_kind,
}


def check_kind(format_name: str, data: bytes) -> None:
    """Reject a file of a format's rare kind that the decoder lacks. Raises ImageRejected."""
    if check := _KINDS.get(format_name):
        check(data)


def check(format_name: str, data: bytes, *, lenient: bool) -> bytes:
    """Return the data to decode. Raises ImageRejected if pixels are missing, or may be.

    `lenient`: a picture that lacks its end but no pixel is returned with the end.
    """
    match format_name:
        case "JPEG":
            return jpeg.check(data, lenient=lenient)
        case "PNG":
            return png.check(data, lenient=lenient)
        case "TIFF":
            tiff.check(data, lenient=lenient)
        case "BMP":
            bmp.check(data, lenient=lenient)
        case "GIF":
            gif.check(data, lenient=lenient)
        case "WebP":
            webp.check(data, lenient=lenient)
        case "HEIC" | "AVIF":
            heif.check(data, lenient=lenient)
    return data
