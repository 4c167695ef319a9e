"""Stability: which files of an inbox have stopped changing, and when to offer them again."""

from collections.abc import Iterable, Mapping

from daemon.fs.fingerprint import FileState


class StabilityTracker:
    """Finds the files that have not changed for the stability delay. Pure: time is a parameter."""

    def __init__(self, stability_delay: float) -> None:
        self._stability_delay = stability_delay
        self._known: dict[str, tuple[FileState, float]] = {}
        """The last state seen, and the time from which the file may be offered."""
        self._offered: set[str] = set()
        self._unavailable: dict[str, int] = {}
        """How often each file could not be handled; a change of its ctime may cure it."""

    def observe(self, now: float, files: Mapping[str, FileState]) -> list[str]:
        """Return the paths that are complete and were not offered yet, oldest change first."""
        for path in [p for p in self._known if p not in files]:
            del self._known[path]
            self._offered.discard(path)
            self._unavailable.pop(path, None)
        for path, seen in files.items():
            known = self._known.get(path)
            if known is None or known[0] != seen:
                self._known[path] = (seen, now + self._stability_delay)
                self._offered.discard(path)
                self._unavailable.pop(path, None)
            elif path in self._unavailable and known[0].ctime_ns != seen.ctime_ns:
                self._known[path] = (seen, min(known[1], now + self._stability_delay))
        ready = [
            path
            for path, (_, due) in self._known.items()
            if due <= now and path not in self._offered
        ]
        self._offered.update(ready)
        return sorted(ready, key=lambda path: (self._known[path][0].mtime_ns, path))

    def offer_again(self, paths: Iterable[str], at: float) -> None:
        """Offer these paths again, not before the time `at`."""
        for path in paths:
            if path in self._known:
                self._known[path] = (self._known[path][0], at)
                self._offered.discard(path)

    def offer_with_backoff(self, path: str, now: float, least: float, most: float) -> None:
        """Offer a path again after `least` seconds, doubled each time up to `most`.

        A change of the file's mode, owner or content makes it due earlier.
        """
        failures = self._unavailable.get(path, 0)
        self._unavailable[path] = failures + 1
        self.offer_again([path], now + min(least * 2 ** min(failures, 30), most))

    def settle(self, path: str) -> None:
        """Forget that a path could not be handled."""
        self._unavailable.pop(path, None)

    def is_unchanged(self, path: str, seen: FileState) -> bool:
        """Return True if the last scan saw the file in this state."""
        return path in self._known and self._known[path][0] == seen

    def is_settled(self, path: str) -> bool:
        """Return True if the file was offered and does not wait for another look."""
        return path in self._offered

    def next_due(self) -> float | None:
        """Return the time at which the next file may be complete; None if no file waits."""
        waiting = (due for path, (_, due) in self._known.items() if path not in self._offered)
        return min(waiting, default=None)
