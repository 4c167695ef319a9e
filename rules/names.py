"""Names: compare texts that look the same but are written in different Unicode forms.

macOS writes an accent as a character of its own (NFD), other systems write one character (NFC).
All comparisons of names and search texts use these functions.
"""

import unicodedata


def nfc(text: str) -> str:
    """Return the text with each accent in one character with its letter."""
    return unicodedata.normalize("NFC", text)


def fold(name: str) -> str:
    """Return a name for comparison: NFC, without upper and lower case."""
    return nfc(nfc(name).casefold())


def spellings(name: str) -> tuple[str, ...]:
    """Return the name as it is, in NFC and in NFD, each once."""
    return tuple(dict.fromkeys((name, nfc(name), unicodedata.normalize("NFD", name))))
