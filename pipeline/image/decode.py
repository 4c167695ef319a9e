"""The picture child: the only code that decodes untrusted bytes, under limits, without a GPU.

It answers Inspect (is this a whole, sound picture, and what is it?) and Prepare (leave a clean PNG
of the clip's size). A file is read once, so that the sha256 is that of the bytes decoded. What a
decoder does to this process costs one picture and nothing else.
"""

import contextlib
import ctypes
import errno
import hashlib
import io
import os
import re
import resource
import stat
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pillow_heif
from PIL import (
    AvifImagePlugin,  # noqa: F401  # importing a plugin makes its format known to Image.open
    BmpImagePlugin,  # noqa: F401
    ExifTags,
    GifImagePlugin,  # noqa: F401
    Image,
    ImageFile,
    IptcImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from pipeline.children.channel import Channel, ParentGone
from pipeline.children.protocol import Failed, Inspect, Inspected, Prepare, Prepared, Rejected
from pipeline.image.colour import UnsupportedColours, framed

MEMORY = "I2VD_PICTURE_MEMORY"
"""Variable: MiB of address space that this process may have."""

PIXELS = "I2VD_PICTURE_PIXELS"
"""Variable: pixels that a picture may have."""

DEFAULT_MEMORY = 2048
"""MiB, unless the variable says otherwise."""

_DEFAULT_PIXELS = 200_000_000
_MAX_FILE_BYTES = 512 * 2**20
_MAX_OUTPUT_BYTES = 256 * 2**20
_MIN_SIDE_PIXELS = 16
_MAX_CAPTION_CHARACTERS = 500

_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "HEIF", "AVIF")
_NAMES = {"MPO": "JPEG", "WEBP": "WebP", "HEIF": "HEIC"}
_KNOWN = "JPEG, PNG, WebP, TIFF, BMP, GIF, HEIC or AVIF"

_BEGINS_WELL = re.compile(
    rb"\xff\xd8\xff|\x89PNG|RIFF....WEBP|II\*\0|MM\0\*|BM|GIF8|....ftyp(hei|hev|mif1|msf1|avi)",
    re.DOTALL,
)
"""The beginnings of pictures that can be read if they are whole."""

_LOOKS_LIKE = (
    (re.compile(rb"\s*<(!doctype\s+html|html)", re.IGNORECASE), "a web page"),
    (re.compile(rb"\s*<(\?xml|svg)", re.IGNORECASE), "an SVG or XML file"),
    (re.compile(rb"%PDF-"), "a PDF"),
    (re.compile(rb"....ftyp(isom|mp4|qt|M4V|avc)", re.DOTALL), "a video"),
    (re.compile(rb"PK\x03\x04"), "an archive"),
)

_CAMERA_NOISE = re.compile(
    r"(olympus|sony|minolta|konica minolta|samsung|kodak)?\s*(digital camera|dsc|dcim)\b.*"
    r"|default|untitled|screenshot|<.*>",
    re.IGNORECASE,
)
"""What cameras and tools write as a description by themselves."""

_DAMAGED = "the picture is damaged or cut short; was it still being copied?"
"""Also said of zeros only, which is what a file looks like whose place was reserved first."""

_TOO_MUCH_TEXT = "the texts or the colour profile inside the picture are too large"

_errno = ctypes.CDLL(None).__errno_location
_errno.restype = ctypes.POINTER(ctypes.c_int)
"""C's own errno: some decoders say "broken" when an allocation failed, but it still tells."""

_IPTC_CAPTION = (2, 120)

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""From the EXIF orientation to the turn that undoes it."""


class ImageRejected(Exception):
    """A file that is refused; the message is a sentence for the user."""

    def __init__(self, reason: str, *, gone: bool = False) -> None:
        super().__init__(reason)
        self.gone = gone


def inspect(request: Inspect) -> Inspected | Rejected:
    """Decode the file to its end and say what it is."""
    try:
        data = read(Path(request.path), Path(request.within))
        picture = decode(data, needed=1)
        return Inspected(
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            width=picture.size[0],
            height=picture.size[1],
            format=picture.format,
            caption=picture.caption,
        )
    except (ImageRejected, MemoryError) as why:
        return _rejected(why)


def prepare(request: Prepare) -> Prepared | Rejected | Failed:
    """Leave a clean PNG of the size asked. Failed is about the place for it, not the picture."""
    try:
        data = read(Path(request.path), Path(request.within))
        if hashlib.sha256(data).hexdigest() != request.sha256:
            raise ImageRejected("the file has changed since it was first looked at", gone=True)
        picture = decode(data, needed=2 * max(request.width, request.height))
        clean = framed(
            picture.image, picture.profile, request.width, request.height, request.framing
        )
        png = io.BytesIO()
        clean.save(png, "PNG")
    except UnsupportedColours as mode:
        return Rejected(reason=f"the picture's colours are of an unsupported kind, {mode}")
    except (ImageRejected, MemoryError) as why:
        return _rejected(why)
    try:
        write(Path(request.output), png.getbuffer())
    except OSError as error:
        reason = f"the prepared picture cannot be written: {_strerror(error)}"
        return Failed(stage="encode", reason=reason, retry=True)
    return Prepared()


def _rejected(why: ImageRejected | MemoryError) -> Rejected:
    if isinstance(why, ImageRejected):
        return Rejected(reason=str(why), gone=why.gone)
    limit = resource.getrlimit(resource.RLIMIT_AS)[0] // 2**20
    return Rejected(reason=f"the picture needs more memory than the {limit} MiB it may have")


def read(path: Path, within: Path = Path()) -> bytes:
    """The whole of a regular file, by no link and without waiting on a pipe. Raises NotUsable.

    Below `within` no folder on the way may be a link either: strangers could lead us elsewhere.
    """
    try:
        descriptor = _open(path, within)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ImageRejected("it is not a regular file")
            if status.st_size > _MAX_FILE_BYTES:
                has, most = status.st_size // 2**20, _MAX_FILE_BYTES // 2**20
                raise ImageRejected(f"the file has {has} MiB; allowed: up to {most}")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(status.st_size + 1)  # reserved at once, so no more than that
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ImageRejected("it is a symbolic link") from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
            raise ImageRejected("the file is gone", gone=True) from error
        if error.errno == errno.ENXIO:
            raise ImageRejected("it is not a regular file") from error
        raise ImageRejected(f"the file cannot be read: {_strerror(error)}") from error
    if not data:
        raise ImageRejected("the file is empty")
    if len(data) != status.st_size:
        raise ImageRejected("the file is still being written")
    return data


def _open(path: Path, within: Path) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
    if within == Path():
        return os.open(path, flags)
    held = os.open(within, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    for folder in path.relative_to(within).parts[:-1]:
        outer = held
        try:
            held = os.open(folder, flags | os.O_DIRECTORY, dir_fd=outer)
        finally:
            os.close(outer)
    try:
        return os.open(path.name, flags, dir_fd=held)
    finally:
        os.close(held)


class DecodedImage(NamedTuple):
    """A decoded picture, upright; `size` is its true (width, height), which `image` may undercut.

    `profile` is the ICC profile of its colours, empty when it has none.
    """

    image: Image.Image
    size: tuple[int, int]
    format: str
    profile: bytes
    caption: str


def decode(data: bytes, *, needed: int) -> DecodedImage:
    """Decode a picture to its end. Raises NotUsable, MemoryError.

    The image of a JPEG over `needed` pixels on both sides may be smaller, down to that.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        _errno()[0] = 0
        try:
            return _decode(data, needed)
        except (ImageRejected, MemoryError):
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ImageRejected(_too_many_pixels()) from error
        except Exception as error:  # decoders raise what they like
            lacks_memory = _errno()[0] == errno.ENOMEM
            if isinstance(error, UnidentifiedImageError) and not lacks_memory:
                raise ImageRejected(_not_known(data)) from error
            print(repr(error)[:500], file=sys.stderr)
            if "MAX_TEXT" in str(error):  # Pillow's limit for chunks of a PNG
                raise ImageRejected(_TOO_MUCH_TEXT) from error
            if "maximum image size" in str(error):  # libheif's own limit
                raise ImageRejected(_too_many_pixels()) from error
            if lacks_memory or "memory" in str(error).lower():
                raise MemoryError from error
            raise ImageRejected(_DAMAGED) from error


def _decode(data: bytes, needed: int) -> DecodedImage:
    image = Image.open(io.BytesIO(data), formats=_FORMATS)
    if min(image.size) < _MIN_SIDE_PIXELS:
        raise ImageRejected(
            f"the picture is tiny ({image.width}x{image.height}); "
            f"allowed: from {_MIN_SIDE_PIXELS} pixels a side"
        )
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        size = image.size
        image.draft(None, (needed, needed))  # the decoder shrinks by 2, 4 or 8: time and memory
        image.load()
    else:
        image.load()
        size = image.size  # only now, for a TIFF turns itself
    if image.format == "PNG" and b"IEND" not in data:
        raise ImageRejected(_DAMAGED)
    if image.mode == "P" and image.palette is None:  # Pillow would end in an assertion later
        raise ImageRejected(_DAMAGED)
    exif = _exif(image)
    orientation = exif.get(ExifTags.Base.Orientation, 1)
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return DecodedImage(
        image=image if turn is None else image.transpose(turn),
        size=size[::-1] if turn is not None and orientation >= 5 else size,
        format=_NAMES.get(image.format or "", image.format or ""),
        profile=image.info.get("icc_profile") or b"",
        caption=_caption(image, exif),
    )


def _too_many_pixels() -> str:
    most = (Image.MAX_IMAGE_PIXELS or 0) / 1e6
    return f"the picture has too many pixels; allowed: up to {most:g} million"


def _not_known(data: bytes) -> str:
    if _BEGINS_WELL.match(data) or not data.strip(b"\0"):
        return _DAMAGED
    looks = next((what for start, what in _LOOKS_LIKE if start.match(data)), "something else")
    return f"it is not a picture in {_KNOWN}, but {looks}"


def _exif(image: ImageFile.ImageFile) -> Mapping[int, Any]:
    try:
        return dict(image.getexif())
    except MemoryError:
        raise
    except Exception:  # a broken EXIF block takes nothing from the pixels
        return {}


def _caption(image: ImageFile.ImageFile, exif: Mapping[int, Any]) -> str:
    """What the picture says of itself, cleaned; empty when that is only a camera's noise."""
    found = [exif.get(ExifTags.Base.ImageDescription), exif.get(ExifTags.Base.XPTitle)]
    with contextlib.suppress(Exception):
        found.append((IptcImagePlugin.getiptcinfo(image) or {}).get(_IPTC_CAPTION))
    for value in found:
        text = " ".join("".join(c if c.isprintable() else " " for c in _text(value)).split())
        if text and not _CAMERA_NOISE.fullmatch(text):
            return text[:_MAX_CAPTION_CHARACTERS].rstrip()
    return ""


def _text(value: object) -> str:
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, str):  # Pillow reads EXIF as Latin-1, but today's programs write UTF-8
        try:
            return value.encode("latin-1").decode("utf-8")
        except UnicodeError:
            return value
    if isinstance(value, tuple) and all(isinstance(v, int) and 0 <= v < 256 for v in value):
        value = bytes(value)
    if isinstance(value, bytes):
        utf16 = b"\0" in value
        return value.decode("utf-16-le" if utf16 else "utf-8", "replace").rstrip("\0")
    return ""


def write(output: Path, content: memoryview) -> None:
    """Write beside, fsync, rename, fsync the folder: the name shows a whole file or none."""
    beside = output.with_name(f"{output.name}.part")
    beside.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(beside, flags, 0o600), "wb") as file:  # noqa: PTH123  # a descriptor
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(output)
    folder = os.open(output.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _strerror(error: OSError) -> str:
    return os.strerror(error.errno or errno.EIO).lower()


def limit_resources(memory: int, pixels: int) -> None:
    """Bound this process for good: `memory` in MiB of address space, `pixels` of a picture."""
    for kind, most in (
        (resource.RLIMIT_AS, memory * 2**20),
        (resource.RLIMIT_FSIZE, _MAX_OUTPUT_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)  # noqa: PLW2901
        resource.setrlimit(kind, (most, most))
    Image.MAX_IMAGE_PIXELS = pixels


def main() -> int:
    """Answer requests until the parent is gone."""
    limit_resources(
        memory=int(os.environ.get(MEMORY, DEFAULT_MEMORY)),
        pixels=int(os.environ.get(PIXELS, _DEFAULT_PIXELS)),
    )
    pillow_heif.register_heif_opener()
    channel = Channel.open()
    try:
        while True:
            match channel.receive():
                case Inspect() as request:
                    channel.send(inspect(request))
                case Prepare() as request:
                    channel.send(prepare(request))
                case other:
                    raise TypeError(f"the picture child was asked to {other.type}")
    except ParentGone:
        return 0
