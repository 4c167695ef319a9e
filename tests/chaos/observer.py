"""Observer: polls an outbox during a run, like a program that fetches its clips."""

import threading
from pathlib import Path
from typing import Self

from tests.chaos.audit import clip_errors, digest
from tests.system.studio import visible


class Observer:
    """Context manager that checks each clip when it first appears.

    `errors`: clips that were seen without a sidecar or incomplete, or that changed or disappeared.
    """

    def __init__(self, outbox: Path) -> None:
        self.errors: list[str] = []
        self.polls = 0
        self._outbox = outbox
        self._seen: dict[Path, str] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        for clip, before in self._seen.items():
            if not clip.exists() or digest(clip) != before:
                self.errors.append(f"{clip}: changed or gone after it was seen")

    def _watch(self) -> None:
        while not self._stopping.wait(0.001):
            self.polls += 1
            for clip in visible(self._outbox, "*.mp4"):
                if clip not in self._seen:
                    self.errors += clip_errors(clip)
                    self._seen[clip] = digest(clip)
