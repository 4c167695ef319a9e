"""File names: numbered when a name is taken, and spelled as a folder allows.

Pure. What a folder allows is found by trial (probe.py), because neither error numbers nor declared
limits tell it.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

_SAFE = re.compile(r"[A-Za-z0-9._-]")
_STAND_IN = "_"
_PLAIN_CHARACTERS = 32
"""Length of a name that every file system takes."""


@dataclass(frozen=True)
class NameRules:
    """How a folder wants names spelled; the default changes nothing."""

    refused: frozenset[str] = frozenset()
    """Characters that no name may contain."""
    max_bytes: int | None = None
    closed_end: bool = False
    """No dot or space at the end."""
    prefix: str = ""
    """Put before every name; a name such as NUL is reserved without one."""
    portable: bool = False
    """Only ASCII letters, digits, ".", "_" and "-" are left."""

    def spell(self, stem: str, suffix: str = "") -> str:
        """Return `stem` + `suffix`, with the stem changed and cut so that the folder takes it."""
        if self.refused or self.portable:
            composed = unicodedata.normalize("NFC", stem)
            stem = "".join(_STAND_IN if self._refuses(c) else c for c in composed)
        stem = self.prefix + stem
        if self.max_bytes is not None:
            available = max(0, self.max_bytes - len(suffix.encode()))
            stem = stem.encode()[:available].decode(errors="ignore")
        name = stem + suffix
        if self.closed_end:
            bare = name.rstrip(". ")
            name = bare + _STAND_IN * (len(name) - len(bare))
        return name

    def _refuses(self, character: str) -> bool:
        return character in self.refused or (self.portable and not _SAFE.match(character))


UNCHANGED = NameRules()


def numbered_names(stem: str, suffix: str, rules: NameRules = UNCHANGED) -> Iterator[str]:
    """Yield `cat.mp4`, `cat-2.mp4`, ..., each spelled by the rules."""
    for number in range(1, 1_000_000):
        yield rules.spell(stem, (f"-{number}" if number > 1 else "") + suffix)


def unusual_characters(name: str) -> list[str]:
    """Return the different characters of a name that some file system may refuse."""
    return [c for c in dict.fromkeys(name) if not _SAFE.match(c)]


def is_plain(name: str) -> bool:
    """Return True if no file system refuses this name."""
    return len(name) <= _PLAIN_CHARACTERS and not unusual_characters(name)


def may_be_spelling(found: str, requested: str) -> bool:
    """Return True if `found` may be `requested`, spelled by some rules and numbered.

    A filter before a comparison of contents: true for each spelling, also on file systems that
    fold case or normalise, and for few other names.
    """
    whole = _skeleton(requested)
    for name in (found, re.sub(r"-[0-9]{1,6}$", "", found)):
        bare = _skeleton(name)[:-1]  # the last character may be half of a longer one
        if whole.startswith((bare, bare.removeprefix(_STAND_IN))):
            return True
    return False


def _skeleton(name: str) -> str:
    """Return a text that all spellings of a name have in common, but for prefix and length."""
    composed = unicodedata.normalize("NFC", name)
    return "".join(c.lower() if c.isascii() and c.isalnum() else _STAND_IN for c in composed)
