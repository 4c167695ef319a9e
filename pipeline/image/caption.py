"""Captions: what a person wrote into the picture, as one clean line."""

import contextlib
import re
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, ImageFile, IptcImagePlugin

from rules.characters import one_line

_MAX_CHARACTERS = 500
_CAMERA_NOISE = re.compile(
    r"(olympus|sony|minolta|konica minolta|samsung|kodak)?\s*(digital camera|dsc|dcim)\b.*"
    r"|default|untitled|screenshot|<.*>",
    re.IGNORECASE,
)
"""Descriptions that cameras and tools write automatically."""

_IPTC_CAPTION = (2, 120)
_IPTC_CHARACTER_SET = (1, 90)
_CHARACTER_SETS = {
    b"\x1b%G": "utf-8",
    b"\x1b%/I": "utf-8",
    **{
        b"\x1b" + slot + final: charset
        for slot in (b"-", b".", b"/")
        for final, charset in (
            (b"A", "iso8859-1"),
            (b"B", "iso8859-2"),
            (b"C", "iso8859-3"),
            (b"D", "iso8859-4"),
            (b"F", "iso8859-7"),
            (b"G", "iso8859-6"),
            (b"H", "iso8859-8"),
            (b"L", "iso8859-5"),
            (b"M", "iso8859-9"),
            (b"V", "iso8859-10"),
        )
    },
}
"""Escape sequences of ISO 2022 in IPTC's CodedCharacterSet."""
ENCODINGS = frozenset({"utf-8", "utf-16-le", "cp1252", "latin-1", *_CHARACTER_SETS.values()})
"""Encodings used here. Python imports each with its first use; in the sandbox that is too late."""


def read_caption(image: ImageFile.ImageFile, exif: Mapping[int, Any]) -> str:
    """Return the embedded caption, cleaned; empty if it is only a camera's default text."""
    for text in (
        _ascii(exif.get(ExifTags.Base.ImageDescription)),
        _utf16(exif.get(ExifTags.Base.XPTitle)),
        _iptc(image),
    ):
        line = one_line(text)
        if line and not _CAMERA_NOISE.fullmatch(line):
            return line[:_MAX_CHARACTERS].rstrip()
    return ""


def _ascii(value: object) -> str:
    """Return a text that EXIF calls ASCII; Pillow reads it as Latin-1."""
    if isinstance(value, str):
        value = value.encode("latin-1", "ignore")
    return _eight_bit(_bytes(value))


def _utf16(value: object) -> str:
    return _bytes(value).decode("utf-16-le", "ignore").rstrip("\0")


def _iptc(image: ImageFile.ImageFile) -> str:
    """Return the caption of the press's records, in the character set that they name."""
    try:
        records = IptcImagePlugin.getiptcinfo(image) or {}
    except MemoryError:
        raise
    except Exception:  # broken records do not affect the pixels
        return ""
    caption = _bytes(records.get(_IPTC_CAPTION))
    charset = _CHARACTER_SETS.get(_bytes(records.get(_IPTC_CHARACTER_SET)))
    if charset is not None:
        with contextlib.suppress(UnicodeDecodeError):
            return caption.decode(charset)
    return _eight_bit(caption)


def _bytes(value: object) -> bytes:
    """Return the bytes of a value as Pillow gives it: of several the first."""
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, tuple) and all(isinstance(v, int) and 0 <= v < 256 for v in value):
        value = bytes(value)
    return value if isinstance(value, bytes) else b""


def _eight_bit(text: bytes) -> str:
    """Decode a text of unknown character set: UTF-8, else what Western Windows programs write.

    Other sets cannot be told from these. Old Mac programs wrote MacRoman, whose accents come out
    wrong, and East Asian ones their own sets; they named none.
    """
    for charset in ("utf-8", "cp1252"):
        with contextlib.suppress(UnicodeDecodeError):
            return text.decode(charset).rstrip("\0")
    return text.decode("latin-1").rstrip("\0")
