"""Template: a text with a few variables in braces, and nothing else.

`str.format` would let a rule file access attributes (`{stem.__class__}`), so the texts are parsed
here: `{name}` is a variable, `{{` and `}}` are braces, anything else is a mistake.
"""

import difflib
import re
from collections.abc import Collection, Mapping

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")

_MAX_MISTAKES = 8


def mistakes(text: str, known: Collection[str]) -> list[str]:
    """List the mistakes in a template that may use the `known` variables."""
    found = []
    for piece in _PIECE.finditer(text):
        if piece[0] in ("{", "}"):
            found.append(f'a lone "{piece[0]}"; write "{piece[0] * 2}" for the character itself')
        elif piece[1] is not None and piece[1] not in known:
            near = difflib.get_close_matches(piece[1], known, n=1)
            name = f"{{{piece[1][:40]}}}"
            hint = (
                f"did you mean {{{near[0]}}}?"
                if near
                else "known: " + ", ".join(f"{{{k}}}" for k in known)
            )
            found.append(f"unknown variable {name}; {hint}")
    return list(dict.fromkeys(found))[:_MAX_MISTAKES]


def fill(text: str, values: Mapping[str, str]) -> str:
    """Replace the variables of a text. Raises KeyError for a variable that `mistakes` reports."""

    def value(piece: re.Match[str]) -> str:
        if piece[0] in ("{{", "}}"):
            return piece[0][0]
        return values[piece[1]]

    return _PIECE.sub(value, text)


def escape(text: str) -> str:
    """Return a template that evaluates to `text`, braces included."""
    return text.replace("{", "{{").replace("}", "}}")
