"""Unsafe characters: the few that a name or a line of text from outside must not hold.

They break a line, command a terminal, or turn the reading direction so that a text shows other than
it is. Everything else belongs to some script of the world and is taken: joiners, wide and narrow
spaces, direction marks, emoji, private use, characters newer than this Python. `str.isprintable`
does not tell the two apart: it refuses all spaces but one, and all joiners.
"""

import re

FORBIDDEN = "control characters, line breaks or characters that turn the reading direction"
"""For messages: "a name must not hold ..."."""

_NO_BYTES = "\ud800-\udc7f\udd00-\udfff"
_BYTES = "\udc80-\udcff"  # bytes of a path that are not UTF-8, as os.fsdecode writes them
_UNSAFE = (
    "\x00-\x1f\x7f-\x9f"  # C0, DEL, C1; among them all line breaks but the two below
    "\u2028\u2029"  # line and paragraph separator
    "\u202a-\u202e\u2066-\u2069"  # bidirectional embeddings, overrides and isolates
    + _NO_BYTES  # a lone surrogate is no character at all
)
_ANY_UNSAFE = re.compile(f"[{_UNSAFE}{_BYTES}]")
_UNSAFE_IN_PATH = re.compile(f"[{_UNSAFE}]")


def has_unsafe(text: str) -> bool:
    """Return True if the text holds an unsafe character."""
    return _ANY_UNSAFE.search(text) is not None


def escape_unsafe(text: str) -> str:
    r"""Replace each unsafe character by its Python escape, such as \x1b or \u202e."""
    return _ANY_UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)


def quoted(text: str) -> str:
    """Return the text in quotes for a message, with unsafe characters escaped."""
    return f"'{escape_unsafe(text)}'"


def replace_unsafe(text: str, replacement: str) -> str:
    """Replace each unsafe character."""
    return _ANY_UNSAFE.sub(replacement, text)


def replace_unsafe_in_path(path: str, replacement: str) -> str:
    """Replace each unsafe character of a path; bytes that are not UTF-8 stay."""
    return _UNSAFE_IN_PATH.sub(replacement, path)


def one_line(text: str) -> str:
    """Return the text as one line: unsafe characters become spaces, and runs of spaces one space.

    Other spaces, such as the wide one of Chinese and Japanese, stay as they are.
    """
    return re.sub(" +", " ", replace_unsafe(text, " ")).strip()
