"""Read rule files and the files beside pictures: selection, order, limits.

A file in an inbox is untrusted. It is read without following a symlink, blocking on a pipe, or
reading more than a rule can have. text_file.py opens it, and parse.py interprets the text.
"""

import hashlib
from pathlib import Path

from rules.text_file import Unreadable, irregularity, read_bytes

MAX_BYTES = 16 * 1024
"""Ten times a long rule. tomllib takes over ten seconds for the worst 64 KiB."""

MAX_OVERRIDE_BYTES = 8 * 1024
"""Limit for a file beside a picture: strangers write it, and the worst one costs its square."""

Fingerprint = tuple[tuple[str, int, int], ...]
"""(name, mtime in ns, size) of each rule file."""


def rule_files(folder: Path) -> list[Path]:
    """List the rule files of a folder in the order in which they are tried. Raises OSError."""
    return sorted(
        (f for f in folder.iterdir() if f.suffix.lower() == ".toml" and f.name[0] not in ".~#"),
        key=lambda f: f.name,
    )


def fingerprint(folder: Path) -> Fingerprint | None:
    """Return a cheap change indicator of the rule files; None if the folder is unreadable."""
    try:
        stats = [(file.name, file.stat()) for file in rule_files(folder)]
    except OSError:
        return None
    return tuple((name, s.st_mtime_ns, s.st_size) for name, s in stats)


def read(file: Path, *, follow: bool) -> bytes:
    """Read a small regular file. Raises Unreadable for anything else.

    With `follow` a symlink is followed: operators may link rules, files in an inbox may not be.
    Raises OSError if the place is at fault: another try may succeed.
    """
    limit = MAX_BYTES if follow else MAX_OVERRIDE_BYTES
    try:
        content = read_bytes(file, follow=follow, max_bytes=limit)
    except OSError as error:
        if reason := irregularity(error, file, follow=follow):
            raise Unreadable(reason) from error
        raise
    if len(content) > limit:
        raise Unreadable(f"is over {limit // 1024} KiB; a few lines of text are enough")
    return content


def sha256_of(override: Path) -> str:
    """Return the SHA-256 of an override, or of as much of it as `read` looks at.

    Returns "" for a file that is missing or not regular. Raises OSError if it cannot be read now.
    """
    try:
        content = read_bytes(override, max_bytes=MAX_OVERRIDE_BYTES)
    except OSError as error:
        if isinstance(error, FileNotFoundError) or irregularity(error, override, follow=False):
            return ""
        raise
    return hashlib.sha256(content).hexdigest()
