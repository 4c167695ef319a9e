"""Submitting a picture: a copy that appears in an inbox at once and whole, as if dropped there."""

import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import tomli_w

from daemon.fs.atomic import CommitMethod, fsync_dir, numbered_names, publish_exclusive
from daemon.intake.scanner import PICTURE_SUFFIXES, is_ignored, is_picture
from rules.parse import Checker, RuleError, parse_sidecar
from rules.rule import Make

_MAX_NAME_BYTES = 200
"""Bytes; the sidecar's ending and a number must have room."""


class InvalidFileName(Exception):
    """No name for a picture; the message says why."""


class OverrideFile(NamedTuple):
    """What lies beside a picture: `ending` after the picture's name, and the text."""

    ending: str
    text: str


def prompt_override(prompt: str) -> OverrideFile:
    """The sidecar that holds a prompt alone."""
    return OverrideFile(".txt", prompt)


def make_override(
    make: Mapping[str, object], checker: Checker
) -> tuple[OverrideFile, Make | None, list[RuleError]]:
    """The sidecar that holds settings, what it will be read as, and what is wrong or unwise in it.

    It is read as nothing where a mistake is fatal.
    """
    try:
        text = tomli_w.dumps(make)
        text.encode()
    except (TypeError, ValueError) as error:
        return (
            OverrideFile(".toml", ""),
            None,
            [RuleError("make", None, "", f"not for TOML: {error}")],
        )
    return OverrideFile(".toml", text), *parse_sidecar("make", text, checker)


def picture_name(name: str) -> str:
    """The name that a picture gets in the inbox. Raises NotAName.

    What comes before the last slash is left away: a browser may send a path.
    """
    name = name.replace("\\", "/").rpartition("/")[2].strip()
    if not name.isprintable():
        raise InvalidFileName(f"{name!r}: a picture's name must be printable")
    if len(name.encode(errors="replace")) > _MAX_NAME_BYTES:
        raise InvalidFileName(
            f"{name[:40]!r}...: a picture's name has up to {_MAX_NAME_BYTES} bytes"
        )
    if is_ignored(name) or not is_picture(name):
        known = " ".join(PICTURE_SUFFIXES)
        raise InvalidFileName(
            f"{name!r}: a picture's name ends in one of {known}, and is not hidden"
        )
    return name


def copy_in(
    content: BinaryIO,
    name: str,
    folder: Path,
    beside: OverrideFile | None = None,
    announce: Callable[[Path], None] = lambda _: None,
) -> Path:
    """Copy under a hidden name, sync, then place: the watcher never sees a part. Raises OSError.

    The sidecar is placed first and never over another, so that no picture comes without its own.
    `announce` is told each path before the picture is put there.
    """
    part = folder / f".i2vd-{uuid.uuid4().hex}.part"
    try:
        with part.open("xb") as file:
            shutil.copyfileobj(content, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        stem, dot, suffix = name.rpartition(".")
        for candidate in numbered_names(stem, dot + suffix):
            there = folder / candidate
            if there.exists():
                continue
            announce(there)
            if _place(part, there, beside):
                fsync_dir(folder)
                return there
    finally:
        part.unlink(missing_ok=True)
    raise AssertionError("numbered() never ends")


def write_override(picture: Path, beside: OverrideFile) -> bool:
    """Give a picture that lies in an inbox its sidecar; False where it has another.

    Raises OSError.
    """
    sidecar = picture.with_name(picture.name + beside.ending)
    others = (picture.with_name(picture.name + ending) for ending in (".toml", ".txt"))
    if any(os.path.lexists(other) for other in others if other != sidecar):
        return False
    try:
        with sidecar.open("x", encoding="utf-8") as file:
            file.write(beside.text)
    except FileExistsError:
        with os.fdopen(os.open(sidecar, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            return file.read(len(beside.text.encode()) + 1) == beside.text.encode()
    return True


def _place(part: Path, there: Path, beside: OverrideFile | None) -> bool:
    """Both or none."""
    if beside is None:
        return _place_picture(part, there)
    sidecar = there.with_name(there.name + beside.ending)
    try:
        with sidecar.open("x", encoding="utf-8") as file:
            file.write(beside.text)
    except FileExistsError:
        return False
    placed = False
    try:
        placed = _place_picture(part, there)
    finally:
        if not placed:
            sidecar.unlink()
    return placed


def _place_picture(part: Path, there: Path) -> bool:
    try:
        return publish_exclusive(part, there, CommitMethod.LINK)
    except OSError:
        return publish_exclusive(part, there, CommitMethod.RENAME)
