"""Line budget: how much of a child's stderr reaches the log.

A sick library may write without end, and a child in bad hands could fill the disk with the log.
"""

_MAX_LINES = 1000
_PERIOD_SECONDS = 60.0
_MAX_CHARACTERS = 1000


class LineBudget:
    """Lines that a minute may have, each of limited length. The others are counted."""

    def __init__(self, lines: int = _MAX_LINES) -> None:
        self._lines = lines
        self._left = 0
        self._dropped = 0
        self._ends = 0.0

    def spend(self, text: str, now: float) -> list[str]:
        """Return the lines to log at a line of stderr; `now` in seconds of a monotonic clock."""
        logged = []
        if now >= self._ends:
            logged = self.settle()
            self._left, self._ends = self._lines, now + _PERIOD_SECONDS
        if self._left == 0:
            self._dropped += 1
            return logged
        self._left -= 1
        return [*logged, text[:_MAX_CHARACTERS]]

    def settle(self) -> list[str]:
        """Return a line about those that were left out since the last one, if any were."""
        dropped, self._dropped = self._dropped, 0
        return [f"... {dropped} more lines"] if dropped else []
