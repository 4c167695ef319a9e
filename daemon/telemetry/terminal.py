"""Escaping of untrusted text, such as file names and prompts, for output on a terminal."""

from rich import markup

from rules.characters import escape_unsafe


def escape(text: str) -> str:
    """Escape text for rich, which also interprets brackets."""
    return markup.escape(escape_unsafe(text))
