"""Formats: the one list of file formats, with their endings and first bytes.

`DECODED` are accepted. `RECOGNISED` are not decoded, but named to the user with advice. Imports no
decoder, so that the daemon can use it.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A format that is decoded. `plugin`: its name in Pillow."""

    name: str
    plugin: str
    endings: tuple[str, ...]
    signature: re.Pattern[bytes]


@dataclass(frozen=True)
class Recognised:
    """A format that is not decoded. `description` says what it is and what to do with it."""

    description: str
    endings: tuple[str, ...]
    signature: re.Pattern[bytes] | None = None

    def __str__(self) -> str:
        return self.description


def _bytes(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL | re.IGNORECASE if b"<" in pattern else re.DOTALL)


DECODED = (
    Format(
        "JPEG",
        "JPEG",
        (".jpg", ".jpeg", ".jpe", ".jfif", ".jfi", ".jif", ".pjpeg", ".pjp", ".mpo", ".jps"),
        _bytes(rb"\xff\xd8\xff"),
    ),
    Format("PNG", "PNG", (".png", ".apng"), _bytes(rb"\x89PNG")),
    Format("WebP", "WEBP", (".webp",), _bytes(rb"RIFF....WEBP")),
    Format("TIFF", "TIFF", (".tif", ".tiff"), _bytes(rb"II[*+]\0|MM\0[*+]")),
    Format("BMP", "BMP", (".bmp", ".dib"), _bytes(rb"BM")),
    Format("GIF", "GIF", (".gif",), _bytes(rb"GIF8")),
    Format(
        "HEIC",
        "HEIF",
        (".heic", ".heif", ".hif", ".heics", ".heifs"),
        _bytes(rb"....ftyp(hei|hev|mif1|msf1)"),
    ),
    Format("AVIF", "AVIF", (".avif", ".avifs"), _bytes(rb"....ftypavi")),
)
"""Formats that the image child decodes."""

KNOWN = "JPEG, PNG, WebP, TIFF, BMP, GIF, HEIC or AVIF"

PICTURE_SUFFIXES = tuple(ending for each in DECODED for ending in each.endings)
"""Endings of the files that count as pictures, in lower case."""

_RAW_ENDINGS = (
    ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".raf", ".orf",
    ".rw2", ".rwl", ".raw", ".pef", ".srw", ".x3f", ".erf", ".kdc", ".dcr", ".mos", ".mef",
    ".mrw", ".3fr", ".fff", ".iiq", ".gpr",
)  # fmt: skip

_VIDEO_ENDINGS = (
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mts", ".m2ts", ".mpg", ".mpeg", ".wmv",
    ".3gp", ".flv", ".insv",
)  # fmt: skip

RECOGNISED = (
    Recognised(
        "a JPEG XL picture; export it as JPEG or PNG",
        (".jxl",),
        _bytes(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"),
    ),
    Recognised(
        "a JPEG 2000 picture; export it as JPEG or PNG",
        (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".jpm"),
        _bytes(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    ),
    Recognised("a JPEG-LS picture; export it as JPEG or PNG", (".jls",)),
    Recognised(
        "a JPEG XR picture; export it as JPEG or PNG", (".jxr", ".wdp", ".hdp"), _bytes(rb"II\xbc")
    ),
    Recognised(
        "a raw file of a camera; develop it and export it as JPEG or PNG",
        _RAW_ENDINGS,
        _bytes(
            rb"II\*\0....CR\x02|....ftypcrx|II..\0\0HEAPCCDR|FUJIFILMCCD-RAW|IIR[OS]|MMOR"
            rb"|IIU\0|FOVb|\0MRM"
        ),
    ),
    Recognised(
        "a Photoshop document; export it as JPEG or PNG", (".psd", ".psb"), _bytes(rb"8BPS")
    ),
    Recognised("a GIMP document; export it as JPEG or PNG", (".xcf",), _bytes(rb"gimp xcf")),
    Recognised(
        "a document of a drawing program; export it as JPEG or PNG",
        (".ai", ".kra", ".ora", ".clip", ".afphoto", ".afdesign", ".procreate", ".sketch", ".cdr"),
    ),
    Recognised(
        "a web page; save the picture itself",
        (".html", ".htm", ".mhtml"),
        _bytes(rb"\s*<(!doctype\s+html|html)"),
    ),
    Recognised(
        "an SVG or XML file; export it as JPEG or PNG",
        (".svg", ".svgz"),
        _bytes(rb"(\xef\xbb\xbf)?\s*<(\?xml|svg)"),
    ),
    Recognised("a PDF; export it as JPEG or PNG", (".pdf",), _bytes(rb"%PDF-")),
    Recognised(
        "a PostScript file; export it as JPEG or PNG",
        (".eps", ".ps"),
        _bytes(rb"%!PS|\xc5\xd0\xd3\xc6"),
    ),
    Recognised(
        "a Netpbm picture; export it as JPEG or PNG",
        (".ppm", ".pgm", ".pbm", ".pnm", ".pam", ".pfm"),
        _bytes(rb"P[1-7Ff]\s"),
    ),
    Recognised("a Targa picture; export it as JPEG or PNG", (".tga",)),
    Recognised(
        "an icon; export it as JPEG or PNG",
        (".ico", ".cur", ".icns"),
        _bytes(rb"\0\0[\x01\x02]\0.\0|icns"),
    ),
    Recognised("an OpenEXR picture; export it as JPEG or PNG", (".exr",), _bytes(rb"v/1\x01")),
    Recognised(
        "a Radiance HDR picture; export it as JPEG or PNG",
        (".hdr",),
        _bytes(rb"#\?RADIANCE|#\?RGBE"),
    ),
    Recognised("a QOI picture; export it as JPEG or PNG", (".qoi",), _bytes(rb"qoif")),
    Recognised("a DDS texture; export it as JPEG or PNG", (".dds",), _bytes(rb"DDS ")),
    Recognised("a PCX picture; export it as JPEG or PNG", (".pcx",)),
    Recognised(
        "a DICOM picture; export it as JPEG or PNG", (".dcm", ".dicom"), _bytes(rb".{128}DICM")
    ),
    Recognised(
        "a video; save one frame of it as JPEG or PNG",
        _VIDEO_ENDINGS,
        _bytes(
            rb"....ftyp(isom|iso[2-9]|mp4|qt|M4V|avc|3g|XAVC|dash)|....(moov|mdat|wide)"
            rb"|RIFF....AVI |\x1a\x45\xdf\xa3|\0\0\x01\xba|FLV\x01"
        ),
    ),
    Recognised(
        "an archive; unpack it",
        (".zip", ".rar", ".7z", ".tar", ".tgz", ".gz", ".xz", ".zst"),
        _bytes(rb"PK\x03\x04|Rar!\x1a\x07|7z\xbc\xaf\x27\x1c|\x1f\x8b|\xfd7zXZ\0|\x28\xb5\x2f\xfd"),
    ),
)
"""Formats that a user may take for pictures, and what to do with them."""

_BY_ENDING = {ending: each for each in RECOGNISED for ending in each.endings}


def find_by_name(name: str) -> Recognised | None:
    """Return the format that is not decoded and that this file name's ending stands for."""
    _, dot, ending = name.rpartition(".")
    return _BY_ENDING.get(f"{dot}{ending.lower()}")


def find_by_content(data: bytes) -> Recognised | None:
    """Return the format that is not decoded and that these first bytes stand for."""
    return next(
        (each for each in RECOGNISED if each.signature and each.signature.match(data)), None
    )


def find_decoded(data: bytes) -> Format | None:
    """Return the format that is decoded and that these first bytes stand for."""
    return next((each for each in DECODED if each.signature.match(data)), None)
