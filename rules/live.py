"""LiveRules: the rules in force. A reload swaps them only when the whole folder is sound."""

from pathlib import Path
from typing import NamedTuple

from rules.files import Fingerprint, fingerprint
from rules.parse import Checker, RuleError, parse_folder
from rules.rule import RuleSet


class Reloaded(NamedTuple):
    """How a reload went, at `at` seconds; without `ok` the last good set stayed in force."""

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
        """Parse the folder into a fresh set, and put it in force if nothing in it is wrong."""
        self._parsed = self._seen = fingerprint(self.folder)  # first: a later write must show
        parsed = parse_folder(self.folder, self._checker)
        if parsed.rules is not None:
            self.rules = parsed.rules
        fatal = tuple(m for m in parsed.mistakes if m.fatal)
        warnings = tuple(m for m in parsed.mistakes if not m.fatal)
        self.last = Reloaded(parsed.rules is not None, fatal, warnings, now)
        return self.last

    def changed(self) -> bool:
        """Whether the files differ from those last parsed and stood still since the last call.

        Cheap: names, times and sizes. An editor in the middle of saving is waited for.
        """
        seen, self._seen = self._seen, fingerprint(self.folder)
        return self._seen == seen and self._seen != self._parsed
