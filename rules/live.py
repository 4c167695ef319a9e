"""LiveRules: the active rules of a folder. A reload replaces them only if all files are valid."""

from pathlib import Path
from typing import NamedTuple

from rules.files import Fingerprint, fingerprint
from rules.parse import Checker, parse_folder
from rules.rule import RuleSet
from rules.source import RuleError


class Reloaded(NamedTuple):
    """Result of a reload, at `at` seconds; if not `ok`, the previous rules remain active."""

    ok: bool
    mistakes: tuple[RuleError, ...]
    warnings: tuple[RuleError, ...]
    at: float


class LiveRules:
    """The rules of one folder; empty until the first reload that succeeds."""

    def __init__(self, folder: Path, checker: Checker) -> None:
        self.folder = folder
        self.rules = RuleSet()
        self.last: Reloaded | None = None
        self._checker = checker
        self._parsed: Fingerprint | None = None
        self._seen: Fingerprint | None = None

    def reload(self, now: float) -> Reloaded:
        """Parse the folder into a new set, and activate it if no mistake is fatal."""
        self._parsed = self._seen = fingerprint(
            self.folder
        )  # before parsing, so that a later write is noticed
        parsed = parse_folder(self.folder, self._checker)
        if parsed.rules is not None:
            self.rules = parsed.rules
        fatal = tuple(m for m in parsed.mistakes if m.fatal)
        warnings = tuple(m for m in parsed.mistakes if not m.fatal)
        self.last = Reloaded(parsed.rules is not None, fatal, warnings, now)
        return self.last

    def has_changed(self) -> bool:
        """Return True if the files differ from those parsed, and not since the last call.

        Cheap: compares names, times and sizes. It waits for an editor that is still saving.
        """
        seen, self._seen = self._seen, fingerprint(self.folder)
        return self._seen == seen and self._seen != self._parsed
