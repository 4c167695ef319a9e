"""Image child: decodes untrusted files under resource limits, without a GPU.

It answers Inspect (is the picture valid, and what is it?) and Prepare (write a clean PNG at the
clip's size). A file is read once, so that the SHA-256 is that of the decoded bytes. A decoder that
crashes or hangs this process costs one picture only.
"""

import contextlib
import ctypes
import errno
import hashlib
import io
import mmap
import os
import re
import resource
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
from pipeline.children.protocol import (
    Failed,
    Inspect,
    Inspected,
    Prepare,
    Prepared,
    Rejected,
    Unavailable,
)
from pipeline.image.colour import UnsupportedColours, apply_framing
from pipeline.image.errors import ImageRejected, SourceUnavailable
from pipeline.image.formats import DECODED, KNOWN, find_by_content, is_decoded
from pipeline.image.source import read, strerror
from rules.characters import one_line

MEMORY = "I2VD_PICTURE_MEMORY"
"""Environment variable: address-space limit of this process in MiB."""

PIXELS = "I2VD_PICTURE_PIXELS"
"""Environment variable: maximum pixels of a picture."""

DEFAULT_MEMORY = 2048
"""Default address-space limit in MiB."""

_DEFAULT_PIXELS = 200_000_000
_MAX_OUTPUT_BYTES = 256 * 2**20
_MIN_SIDE_PIXELS = 16
_MAX_CAPTION_CHARACTERS = 500
_SPARE_BYTES = 4 * 2**20
"""Left out when the rest of the limit is probed, for what the probe itself needs."""

_PLUGINS = tuple(each.plugin for each in DECODED)
_NAMES = {each.plugin: each.name for each in DECODED} | {"MPO": "JPEG"}

_CAMERA_NOISE = re.compile(
    r"(olympus|sony|minolta|konica minolta|samsung|kodak)?\s*(digital camera|dsc|dcim)\b.*"
    r"|default|untitled|screenshot|<.*>",
    re.IGNORECASE,
)
"""Descriptions that cameras and tools write automatically."""

_DAMAGED = "the picture is damaged or cut short; was it still being copied?"
"""Also reported for files of zeros only, as copy tools preallocate them."""

_TOO_MUCH_TEXT = "the texts or the colour profile inside the picture are too large"

_errno = ctypes.CDLL(None).__errno_location
_errno.restype = ctypes.POINTER(ctypes.c_int)
"""C's errno: shows a failed allocation that some decoders report as a broken file."""

_IPTC_CAPTION = (2, 120)

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


def inspect(request: Inspect) -> Inspected | Rejected | Unavailable:
    """Decode the whole file and return its properties."""
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
    except (ImageRejected, SourceUnavailable, MemoryError) as error:
        return _refusal(error)


def prepare(request: Prepare) -> Prepared | Rejected | Unavailable | Failed:
    """Write a clean PNG of the requested size. Failed: it cannot be written."""
    try:
        data = read(Path(request.path), Path(request.within))
        if hashlib.sha256(data).hexdigest() != request.sha256:
            raise ImageRejected("the file has changed since it was first looked at", gone=True)
        picture = decode(data, needed=2 * max(request.width, request.height))
        clean = apply_framing(
            picture.image, picture.profile, request.width, request.height, request.framing
        )
        png = io.BytesIO()
        clean.save(png, "PNG")
    except UnsupportedColours as mode:
        return Rejected(reason=f"the picture's colours are of an unsupported kind, {mode}")
    except (ImageRejected, SourceUnavailable, MemoryError) as error:
        return _refusal(error)
    try:
        write(Path(request.output), png.getbuffer())
    except OSError as error:
        reason = f"the prepared picture cannot be written: {strerror(error)}"
        return Failed(stage="condition", reason=reason, retry=True)
    return Prepared()


def _refusal(error: ImageRejected | SourceUnavailable | MemoryError) -> Rejected | Unavailable:
    match error:
        case ImageRejected():
            return Rejected(reason=str(error), gone=error.gone, incomplete=error.incomplete)
        case SourceUnavailable():
            return Unavailable(reason=str(error))
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if machine_lacks_memory(limit):
        return Unavailable(reason="the machine is out of memory; it will be tried again")
    return Rejected(
        reason=f"the picture needs more memory than the {limit // 2**20} MiB it may have"
    )


class DecodedImage(NamedTuple):
    """Decoded picture, upright. `size` is its true (width, height); `image` may be smaller.

    `profile` is its ICC profile, or empty.
    """

    image: Image.Image
    size: tuple[int, int]
    format: str
    profile: bytes
    caption: str


def decode(data: bytes, *, needed: int) -> DecodedImage:
    """Decode a whole picture. Raises ImageRejected, MemoryError.

    A JPEG may be decoded at a reduced size, with both sides at least `needed` pixels.
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
        except Exception as error:  # decoders raise any type
            lacks_memory = _errno()[0] == errno.ENOMEM
            if isinstance(error, UnidentifiedImageError) and not lacks_memory:
                raise ImageRejected(_describe_unknown(data)) from error
            print(repr(error)[:500], file=sys.stderr)
            if "MAX_TEXT" in str(error):  # Pillow's limit for chunks of a PNG
                raise ImageRejected(_TOO_MUCH_TEXT) from error
            if "maximum image size" in str(error):  # libheif's own limit
                raise ImageRejected(_too_many_pixels()) from error
            if lacks_memory or "memory" in str(error).lower():
                raise MemoryError from error
            raise ImageRejected(_DAMAGED) from error


def _decode(data: bytes, needed: int) -> DecodedImage:
    image = Image.open(io.BytesIO(data), formats=_PLUGINS)
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
    if image.format == "PNG" and b"IEND" not in data:
        raise ImageRejected(_DAMAGED)
    if image.mode == "P" and image.palette is None:  # Pillow would fail an assertion later
        raise ImageRejected(_DAMAGED)
    exif = _exif(image)
    orientation = exif.get(ExifTags.Base.Orientation, 1)
    transpose = _TRANSPOSES.get(orientation) if isinstance(orientation, int) else None
    return DecodedImage(
        image=image if transpose is None else image.transpose(transpose),
        size=size[::-1] if transpose is not None and orientation >= 5 else size,
        format=_NAMES[image.format or ""],
        profile=image.info.get("icc_profile") or b"",
        caption=_caption(image, exif),
    )


def _too_many_pixels() -> str:
    most = (Image.MAX_IMAGE_PIXELS or 0) / 1e6
    return f"the picture has too many pixels; allowed: up to {most:g} million"


def _describe_unknown(data: bytes) -> str:
    if is_decoded(data) or not data.strip(b"\0"):
        return _DAMAGED
    return f"it is not a picture in {KNOWN}, but {find_by_content(data) or 'something else'}"


def _exif(image: ImageFile.ImageFile) -> Mapping[int, Any]:
    try:
        return dict(image.getexif())
    except MemoryError:
        raise
    except Exception:  # a broken EXIF block does not affect the pixels
        return {}


def _caption(image: ImageFile.ImageFile, exif: Mapping[int, Any]) -> str:
    """Return the embedded caption, cleaned; empty if it is only a camera's default text."""
    found = [exif.get(ExifTags.Base.ImageDescription), exif.get(ExifTags.Base.XPTitle)]
    with contextlib.suppress(Exception):
        found.append((IptcImagePlugin.getiptcinfo(image) or {}).get(_IPTC_CAPTION))
    for value in found:
        text = one_line(_text(value))
        if text and not _CAMERA_NOISE.fullmatch(text):
            return text[:_MAX_CAPTION_CHARACTERS].rstrip()
    return ""


def _text(value: object) -> str:
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, str):  # Pillow reads EXIF as Latin-1, but current programs write UTF-8
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
    """Write atomically: write beside `output`, fsync, rename, fsync the folder."""
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


def limit_resources(memory: int, pixels: int) -> None:
    """Set permanent limits: `memory` in MiB of address space, `pixels` per picture."""
    for kind, most in (
        (resource.RLIMIT_AS, memory * 2**20),
        (resource.RLIMIT_FSIZE, _MAX_OUTPUT_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)  # noqa: PLW2901
        resource.setrlimit(kind, (most, most))
    Image.MAX_IMAGE_PIXELS = pixels


def machine_lacks_memory(limit: int) -> bool:
    """Return True if the system refuses even the address space that `limit` in bytes leaves.

    Then not the picture is too large, but the machine is out of memory; except where all of its
    memory is less than the limit, because waiting would not help.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    left = limit - pages * mmap.PAGESIZE - _SPARE_BYTES
    if left <= 0:
        return False
    try:
        mmap.mmap(-1, left).close()  # is counted, but never touched
    except (OSError, MemoryError):
        return left < _memory_of_machine()
    return False


def _memory_of_machine() -> int:
    """Return the bytes that the system would ever allocate."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    sizes = {name: int(value.split()[0]) * 1024 for name, value in (x.split(":") for x in lines)}
    strict = Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2"
    return sizes["CommitLimit"] if strict else sizes["MemTotal"] + sizes["SwapTotal"]


def main() -> int:
    """Answer requests until the parent exits."""
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
