"""The corpus: small sound pictures in all eight formats, and where their parts begin.

The parts (PNG chunks, JPEG segments, RIFF chunks, ISO boxes) are found by a light walk that is
right for what is made here; damaged files give what parts they seem to have.
"""

import io
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pillow_heif
from PIL import ExifTags, Image, ImageCms

pillow_heif.register_heif_opener()

Part = tuple[int, int]
"""Where a part of a file begins and ends."""

SIZE = (48, 40)


def scene(size: tuple[int, int] = SIZE) -> Image.Image:
    """Some shapes and slopes in colour, so that every coder has something to do."""
    grey = Image.radial_gradient("L").resize(size)
    slope = Image.linear_gradient("L").resize(size)
    return Image.merge("RGB", (grey, slope, slope.transpose(Image.Transpose.ROTATE_180)))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The image as a file's bytes."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def corpus() -> dict[str, bytes]:
    """Sound files by name, always in the same order; the name begins with the format."""
    image = scene()
    frames = [image.rotate(turn) for turn in (90, 180, 270)]
    film: dict[str, Any] = {"save_all": True, "append_images": frames, "duration": 100}
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.ImageDescription] = "A boat"
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = made[:24] + bytes(12) + made[36:]  # without the time at which it was made
    clear = image.copy()
    clear.putalpha(Image.radial_gradient("L").resize(SIZE))
    deep = Image.linear_gradient("L").resize(SIZE).convert("I;16")
    return {
        "jpeg": encoded(image, "JPEG", exif=exif, icc_profile=profile),
        "jpeg-progressive": encoded(image, "JPEG", progressive=True, quality=90),
        "jpeg-cmyk": encoded(image.convert("CMYK"), "JPEG"),
        "jpeg-grey-restarts": encoded(image.convert("L"), "JPEG", restart_marker_blocks=2),
        "png": encoded(image, "PNG", exif=exif, icc_profile=profile),
        "png-palette": encoded(image.quantize(16), "PNG", transparency=3),
        "png-alpha": encoded(clear, "PNG"),
        "png-deep": encoded(deep, "PNG"),
        "png-film": encoded(image, "PNG", **film),
        "webp": encoded(image, "WEBP", exif=exif, icc_profile=profile),
        "webp-lossless": encoded(clear, "WEBP", lossless=True),
        "webp-film": encoded(image, "WEBP", **film),
        "tiff": encoded(image, "TIFF", exif=exif),
        "tiff-lzw": encoded(clear, "TIFF", compression="tiff_lzw"),
        "tiff-deflate": encoded(deep, "TIFF", compression="tiff_adobe_deflate"),
        "tiff-jpeg": encoded(image, "TIFF", compression="jpeg"),
        "tiff-fax": encoded(image.convert("1"), "TIFF", compression="group4"),
        "tiff-pages": encoded(image, "TIFF", **film),
        "bmp": encoded(image, "BMP"),
        "bmp-palette": encoded(image.quantize(16), "BMP"),
        "gif": encoded(image, "GIF"),
        "gif-film": encoded(image, "GIF", **film),
        "heic": encoded(image, "HEIF", exif=exif),
        "heic-alpha": encoded(clear, "HEIF"),
        "avif": encoded(image, "AVIF", exif=exif),
        "avif-alpha": encoded(clear, "AVIF"),
        "avif-film": _timeless(encoded(image, "AVIF", **film)),
    }


def _timeless(film: bytes) -> bytes:
    """An AVIF film that does not tell when it was made."""
    out = bytearray(film)
    for begin, _ in parts(film):
        if film[begin + 4 : begin + 8] in (b"mvhd", b"tkhd", b"mdhd"):
            times = 16 if film[begin + 8] == 1 else 8
            out[begin + 12 : begin + 12 + times] = bytes(times)
    return bytes(out)


def parts(data: bytes) -> list[Part]:
    """The parts of a file of a known layout; none of another."""
    walk: Callable[[bytes], Iterator[Part]]
    if data.startswith(b"\x89PNG"):
        walk = _chunks_of_png
    elif data.startswith(b"\xff\xd8"):
        walk = _segments_of_jpeg
    elif data.startswith(b"RIFF"):
        walk = _chunks_of_riff
    elif data[4:8] == b"ftyp":
        walk = _boxes
    else:
        return []
    return [(begin, end) for begin, end in walk(data) if begin < end <= len(data)]


def checked(data: bytes) -> bytes:
    """A PNG with its checksums put right, so that damage gets past them; others as they are."""
    if not data.startswith(b"\x89PNG"):
        return data
    right = bytearray(data)
    for begin, end in parts(data):
        if end - begin >= 12:
            right[end - 4 : end] = zlib.crc32(right[begin + 4 : end - 4]).to_bytes(4, "big")
    return bytes(right)


def _chunks_of_png(data: bytes) -> Iterator[Part]:
    at = 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield at, end
        at = end


def _segments_of_jpeg(data: bytes) -> Iterator[Part]:
    """The last one is all from the first scan on."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield at, end
        at = end
    yield at, len(data)


def _chunks_of_riff(data: bytes) -> Iterator[Part]:
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + size + size % 2
        yield at, end
        at = end


_NESTED = (b"meta", b"iprp", b"ipco", b"moov", b"trak", b"mdia", b"minf", b"stbl", b"iinf")


def _boxes(data: bytes, at: int = 0, stop: int | None = None) -> Iterator[Part]:
    """Boxes, and the boxes in those that hold others."""
    stop = len(data) if stop is None else min(stop, len(data))
    while at + 8 <= stop:
        size = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if size < 8:
            return
        yield at, at + size
        if kind in _NESTED:
            inside = at + 8 + {b"meta": 4, b"iinf": 6}.get(kind, 0)
            yield from _boxes(data, inside, at + size)
        at += size
