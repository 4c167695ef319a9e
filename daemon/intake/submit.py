"""Submission: copy a picture into an inbox so that it appears there complete.

The file beside it (prompt or settings) gets its name first. The watcher then finds both like any
other drop.
"""

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import tomli_w

from daemon.fs.atomic import CommitMethod, publish_exclusive
from daemon.fs.names import numbered_names
from daemon.intake.junk import is_ignored
from daemon.intake.scanner import is_picture
from pipeline.durable import fsync_dir, fsync_file
from pipeline.image.formats import DECODED, PICTURE_SUFFIXES
from rules.characters import FORBIDDEN, has_unsafe, quoted
from rules.files import MAX_OVERRIDE_BYTES
from rules.override import AllowedOverrides
from rules.parse import Checker, is_too_deep, parse_sidecar
from rules.rule import Make
from rules.source import RuleError
from rules.text_file import read_bytes

_MAX_NAME_BYTES = 200
"""Leaves room for the override's suffix and a number."""


_HEAD_BYTES = 64

_ENDING = re.compile(r"\.(?=[0-9]*[a-z])[a-z0-9]{1,6}$", re.IGNORECASE)
"""An ending as a program gives it: not the last part of "Screenshot at 10.42.48"."""


class InvalidFileName(Exception):
    """The name is not allowed for a picture; the message gives the reason."""


class OverrideFile(NamedTuple):
    """Settings file beside a picture: `ending` follows the picture's name."""

    ending: str
    text: str


def prompt_override(prompt: str) -> OverrideFile:
    """Return the override that holds only a prompt."""
    return OverrideFile(".txt", prompt)


def make_override(
    make: Mapping[str, object], checker: Checker, allowed: AllowedOverrides = "all"
) -> tuple[OverrideFile, Make | None, list[RuleError]]:
    """Return the override that holds settings, how it is parsed, and its mistakes and warnings.

    The parsed settings are None if a mistake is fatal. What is accepted here is accepted when the
    watcher reads the file: both have the same limits.
    """
    if is_too_deep(make):
        return _unusable("is nested too deeply")
    try:
        text = tomli_w.dumps(make)
        size = len(text.encode())
        parsed = parse_sidecar("make", text, checker, allowed)
    except RecursionError:
        return _unusable("is nested too deeply")
    except (TypeError, ValueError) as error:
        return _unusable(f"not for TOML: {error}")
    if size > MAX_OVERRIDE_BYTES:
        return _unusable(
            f"is over {MAX_OVERRIDE_BYTES // 1024} KiB; a few lines of text are enough"
        )
    return OverrideFile(".toml", text), *parsed


def _unusable(reason: str) -> tuple[OverrideFile, None, list[RuleError]]:
    return OverrideFile(".toml", ""), None, [RuleError("make", None, "", reason)]


def picture_name(name: str, head: bytes = b"") -> str:
    """Return the name that a picture gets in the inbox. Raises InvalidFileName.

    Everything before the last slash is dropped, because a browser may send a path. A name without
    an ending, such as "image" or "blob", gets the ending of the format that `head`, the first bytes
    of the content, begins.
    """
    name = name.replace("\\", "/").rpartition("/")[2].strip()
    if not _ENDING.search(name) and (ending := _ending_of(head)) and not is_ignored(name):
        name = f"{name or 'picture'}{ending}"
    if has_unsafe(name):
        raise InvalidFileName(f"{quoted(name)}: a picture's name must not hold {FORBIDDEN}")
    if len(name.encode(errors="replace")) > _MAX_NAME_BYTES:
        raise InvalidFileName(
            f"{quoted(name[:40])}...: a picture's name has up to {_MAX_NAME_BYTES} bytes"
        )
    if is_ignored(name) or not is_picture(name):
        known = " ".join(PICTURE_SUFFIXES)
        raise InvalidFileName(
            f"{quoted(name)}: a picture's name ends in one of {known}, and is not hidden"
        )
    return name


def read_head(content: BinaryIO) -> bytes:
    """Return the bytes by which a format is recognised; the position stays at the start."""
    head = content.read(_HEAD_BYTES)
    content.seek(0)
    return head


def _ending_of(head: bytes) -> str:
    return next((each.endings[0] for each in DECODED if each.signature.match(head)), "")


def copy_in(
    content: BinaryIO,
    name: str,
    folder: Path,
    override: OverrideFile | None = None,
    announce: Callable[[Path], None] = lambda _: None,
) -> Path:
    """Copy to a hidden name, fsync, then publish; the watcher sees no partial file.

    The override is placed first and never overwrites, so that no picture appears without its own.
    `announce` is called with each path before the picture gets it. Raises OSError.
    """
    part = folder / f".i2vd-{uuid.uuid4().hex}.part"
    try:
        with part.open("xb") as file:
            shutil.copyfileobj(content, file, 1 << 20)
            file.flush()
            fsync_file(file.fileno())
        stem, dot, suffix = name.rpartition(".")
        for candidate in numbered_names(stem, dot + suffix):
            target = folder / candidate
            if target.exists():
                continue
            announce(target)
            if _place_both(part, target, override):
                fsync_dir(folder)
                return target
    finally:
        part.unlink(missing_ok=True)
    raise AssertionError("numbered_names() does not end")


def write_override(picture: Path, override: OverrideFile) -> bool:
    """Write the override of a picture in an inbox; return False if it has another.

    Raises OSError.
    """
    file_name = picture.with_name(picture.name + override.ending)
    others = (picture.with_name(picture.name + ending) for ending in (".toml", ".txt"))
    if any(os.path.lexists(other) for other in others if other != file_name):
        return False
    try:
        with file_name.open("x", encoding="utf-8") as file:
            file.write(override.text)
    except FileExistsError:
        content = override.text.encode()
        return read_bytes(file_name, max_bytes=len(content)) == content
    return True


def _place_both(part: Path, target: Path, override: OverrideFile | None) -> bool:
    """Publish the override and the picture, or neither."""
    if override is None:
        return _place_picture(part, target)
    override_path = target.with_name(target.name + override.ending)
    try:
        with override_path.open("x", encoding="utf-8") as file:
            file.write(override.text)
    except FileExistsError:
        return False
    placed = False
    try:
        placed = _place_picture(part, target)
    finally:
        if not placed:
            override_path.unlink()
    return placed


def _place_picture(part: Path, target: Path) -> bool:
    for method in (CommitMethod.LINK, CommitMethod.RENAME):
        with contextlib.suppress(OSError):
            return publish_exclusive(part, target, method)
    return publish_exclusive(part, target, CommitMethod.RESERVE)
