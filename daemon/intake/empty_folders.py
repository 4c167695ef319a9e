"""Empty folders: remove those that a drop brought, once its pictures have left.

A folder that was empty for a minute before its first picture came is a place for drops, and stays;
so does one that a rule names. After a restart, what was empty before stays too.
"""

import contextlib
import time
from collections.abc import Collection
from pathlib import Path, PurePosixPath

import structlog

from daemon.fs.safe_path import open_beneath
from daemon.intake.scanner import Scan

MIN_AGE_SECONDS = 60.0
"""Time for which a folder must have been empty, so that no copy into it is disturbed."""

log = structlog.get_logger()


class EmptyFolders:
    """Empty subfolders of one inbox. `update` is called after each scan."""

    def __init__(self, inbox: str, root: Path) -> None:
        self._inbox = inbox
        self._root = root
        self._empty_since: dict[str, float] = {}
        self._brought: set[str] = set()
        """Folders that came with pictures in them or below them."""
        self._kept: set[str] | None = None
        """Folders that were there before their first picture; None before the first scan."""

    def update(self, scan: Scan, named: Collection[str], now: float) -> None:
        """Remove what has been empty for a minute. `named`: folders in rules. `now`: monotonic."""
        if self._kept is None:
            self._kept = set(scan.empty)
        self._empty_since = {path: self._empty_since.get(path, now) for path in scan.empty}
        old = {path for path, since in self._empty_since.items() if now - since >= MIN_AGE_SECONDS}
        self._kept |= old - self._brought
        filled = {str(each) for path in scan.filled for each in _with_parents(path)}
        self._brought |= filled - self._kept
        for path in old & self._brought - set(named):
            self._remove(path)

    def _remove(self, path: str) -> None:
        inside = PurePosixPath(path)
        with contextlib.suppress(OSError):
            with open_beneath(self._root, inside.parent, make=False) as parent:
                folder = parent / inside.name
                if time.time() - folder.lstat().st_mtime < MIN_AGE_SECONDS:
                    return
                folder.rmdir()  # fails if something has come into it meanwhile
            self._brought.discard(path)
            log.info("empty folder removed", inbox=self._inbox, path=path)


def _with_parents(path: str) -> list[PurePosixPath]:
    folder = PurePosixPath(path)
    return [each for each in (folder, *folder.parents) if each != PurePosixPath(".")]
