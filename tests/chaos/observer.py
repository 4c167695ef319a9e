"""The observer: looks at an outbox all the while, as somebody would who fetches clips from it."""

import threading
from pathlib import Path
from typing import Self

from tests.chaos.books import digest, faults
from tests.system.studio import visible


class Observer:
    """Judges each clip at the moment that it first shows; use it as a context.

    `bad` says what should never have been seen: a clip without its sidecar, or not whole, or gone
    again, or of other bytes than before.
    """

    def __init__(self, outbox: Path) -> None:
        self.bad: list[str] = []
        self.looks = 0
        self._outbox = outbox
        self._seen: dict[Path, str] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for clip, before in self._seen.items():
            if not clip.exists() or digest(clip) != before:
                self.bad.append(f"{clip}: changed or gone after it was seen")

    def _watch(self) -> None:
        while not self._over.wait(0.001):
            self.looks += 1
            for clip in visible(self._outbox, "*.mp4"):
                if clip not in self._seen:
                    self.bad += faults(clip)
                    self._seen[clip] = digest(clip)
