"""Skipped files: what is in an inbox for a minute and belongs to no job.

The one place that knows them: path, reason, since when. One log line each, or one for many; the
API, the page and the metrics read the list.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import structlog
from pydantic import BaseModel

SkipReason = Literal[
    "unsupported_format",
    "unknown_ending",
    "no_rule",
    "override_without_picture",
    "override_not_applied",
    "name_not_utf8",
    "path_too_long",
    "not_regular_file",
    "not_watched",
    "unreadable",
    "incomplete",
    "temporary_name",
    "conflict_copy",
    "internal_error",
]
SKIP_REASONS: tuple[SkipReason, ...] = get_args(SkipReason)

REPORT_AFTER_SECONDS = 60.0
TEMPORARY_AFTER_SECONDS = 3600.0
"""The same for a file with a temporary name, since its last change."""

_MAX_LISTED = 1000
_MAX_LINES = 20
"""Log lines within `_LINES_WINDOW_SECONDS`; more files than that share one."""
_LINES_WINDOW_SECONDS = 60.0
_MAX_REMEMBERED = 10_000

log = structlog.get_logger()


class Skip(NamedTuple):
    """Why a file has no job: a name for machines, and a sentence."""

    reason: SkipReason
    detail: str


class SkippedFile(BaseModel):
    """A file or folder that belongs to no job; `since`: when it was seen first, since 1970."""

    inbox: str
    path: str
    reason: SkipReason
    detail: str
    since: float


class SkippedFiles:
    """The skipped files of one inbox. `update` is called after each scan."""

    def __init__(self, inbox: str, root: Path) -> None:
        self._inbox = inbox
        self._root = root
        self._since: dict[str, tuple[Skip, float]] = {}
        self._reported: dict[str, SkippedFile] = {}
        self._counts: Counter[SkipReason] = Counter()
        self._logged: set[tuple[str, SkipReason]] = set()
        self._lines = 0
        self._window_end = 0.0

    @property
    def total(self) -> int:
        """Number of skipped files, also of those that are not listed."""
        return self._counts.total()

    def counts(self) -> dict[SkipReason, int]:
        """Return the number of skipped files by reason."""
        counts = self._counts
        return {reason: counts[reason] for reason in SKIP_REASONS}

    def listed(self) -> list[SkippedFile]:
        """Return skipped files, oldest first, a thousand at most."""
        return sorted(self._reported.values(), key=lambda each: each.since)

    def update(self, found: Mapping[str, Skip], now: float | None = None) -> None:
        """Replace the list by what is skipped now, and log what is new. `now`: since 1970."""
        now = time.time() if now is None else now
        before = self._since
        self._since = {
            path: before[path] if path in before and before[path][0] == skip else (skip, now)
            for path, skip in found.items()
        }
        due = [path for path, entry in self._since.items() if self._is_due(path, *entry, now)]
        self._counts = Counter(self._since[path][0].reason for path in due)
        self._reported = {path: self._as_file(path) for path in due[:_MAX_LISTED]}
        self._log(due, now)

    def _is_due(self, path: str, skip: Skip, since: float, now: float) -> bool:
        if skip.reason != "temporary_name":
            return now - since >= REPORT_AFTER_SECONDS
        if now - since < TEMPORARY_AFTER_SECONDS:
            return False
        try:
            changed = (self._root / path).lstat().st_mtime
        except OSError:
            return True
        return now - changed >= TEMPORARY_AFTER_SECONDS

    def _as_file(self, path: str) -> SkippedFile:
        skip, since = self._since[path]
        shown = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
        return SkippedFile(
            inbox=self._inbox, path=shown, reason=skip.reason, detail=skip.detail, since=since
        )

    def _log(self, due: Iterable[str], now: float) -> None:
        """Log each path and reason once; more than a screenful of them as one line a reason."""
        new = [path for path in due if (path, self._since[path][0].reason) not in self._logged]
        if now >= self._window_end:
            self._lines, self._window_end = _MAX_LINES, now + _LINES_WINDOW_SECONDS
        if not new or not self._lines:
            return
        if len(new) <= self._lines:
            self._lines -= len(new)
            for path in new:
                log.warning("file skipped", **self._as_file(path).model_dump(exclude={"since"}))
        else:
            self._lines = 0
            for reason, count in Counter(self._since[path][0].reason for path in new).items():
                example = next(path for path in new if self._since[path][0].reason == reason)
                fields = self._as_file(example).model_dump(exclude={"since", "path"})
                log.warning("files skipped", count=count, example=example, **fields)
        if len(self._logged) + len(new) > _MAX_REMEMBERED:
            self._logged = {each for each in self._logged if each[0] in self._since}
        self._logged.update((path, self._since[path][0].reason) for path in new)
