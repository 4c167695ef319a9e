"""Source: the text of a file, which finds the line of each mistake in it.

Every function here takes time that is linear in the text, because strangers write such files.
"""

from functools import cached_property
from typing import NamedTuple

from rules.characters import replace_unsafe


class RuleError(NamedTuple):
    """A mistake (`fatal`) or warning in a file; `key` and `line` if they are known."""

    file: str
    line: int | None
    key: str
    message: str
    fatal: bool = True

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        warning = "" if self.fatal else "warning: "
        key = f"{self.key}: " if self.key else ""
        return f"{place}: {warning}{key}{self.message}"


class Source:
    """Name and text of a file."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.text = text

    def mistake(self, table: str, key: str, message: str, *, fatal: bool = True) -> RuleError:
        """Return a mistake about a key of a table, with its line."""
        full = f"{table}.{key}" if table and key else table or key
        return RuleError(self.file, self._line(table, key), show(full), safe(message), fatal)

    def _line(self, table: str, key: str) -> int | None:
        """Return the line of a key under its table; a simple search for the usual spellings."""
        headers, keys = self._lines
        if table and key:
            return keys.get((table, key), keys.get(("", table)))
        name = table or key
        found = (headers.get(name), keys.get(("", name)))
        return min((line for line in found if line is not None), default=None)

    @cached_property
    def _lines(self) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
        """The first line of each [header], and of each (table, key)."""
        headers: dict[str, int] = {}
        keys: dict[tuple[str, str], int] = {}
        table = ""
        for number, raw in enumerate(self.text.split("\n"), 1):
            line = raw.strip()
            if line.startswith("["):
                table = line[1:].partition("]")[0].strip().strip("\"'")
                headers.setdefault(table, number)
                continue
            first, separator, rest = _split_key(line)
            if not separator:
                continue
            keys.setdefault((table, first), number)
            if separator == "." and not table:
                second, separator, _ = _split_key(rest)
                if separator:
                    keys.setdefault((first, second), number)
        return headers, keys


def _split_key(line: str) -> tuple[str, str, str]:
    """Split `key = value` or `key.rest` at its "=" or "."; the separator is "" for other lines."""
    line = line.lstrip()
    quote = line[:1]
    if quote and quote in "'\"":
        key, closed, rest = line[1:].partition(quote)
        rest = rest.lstrip() if closed else ""
    else:
        length = next((at for at, letter in enumerate(line) if letter in " \t.="), len(line))
        key, rest = line[:length], line[length:].lstrip()
    return (key, rest[0], rest[1:]) if rest and rest[0] in "=." else (key, "", "")


def show(text: str) -> str:
    """Make a text from a file short and safe, for one line of a message."""
    text = safe(text)
    return text if len(text) <= 80 else text[:77] + "..."


def safe(text: str) -> str:
    """Return the text with a replacement character for each unsafe one."""
    return replace_unsafe(text, "\N{REPLACEMENT CHARACTER}")
