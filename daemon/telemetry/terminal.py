"""Escaping of untrusted text, such as file names and prompts, for output on a terminal."""

from rich import markup


def printable(text: str) -> str:
    """Escape control characters: line breaks, colours, cursor movement and writing direction."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def escape(text: str) -> str:
    """Escape text for rich, which also interprets brackets."""
    return markup.escape(printable(text))
