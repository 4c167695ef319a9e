"""Texts of others, such as names and prompts, as they may be shown on a terminal."""

from rich import markup


def printable(text: str) -> str:
    """The text without what moves a cursor, begins a line, turns the writing or changes colours."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def escape(text: str) -> str:
    """The same for rich, to whom brackets mean something too."""
    return markup.escape(printable(text))
