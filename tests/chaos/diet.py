"""Mixed diet of a chaos run: odd names, odd folders, half copies and passing errors.

The inbox, the outbox and the archive are odd file systems, and the daemon may not ignore modes.
Half copies are completed later, as by a slow or paused copy program. An error passes after a second
or two. Nothing of this may lose, double or hold up a picture.
"""

import contextlib
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

from PIL import Image

from tests.chaos.drops import Drops
from tests.system.disks import odd_folder
from tests.system.studio import Studio, picture

NAMES = (
    "Screenshot 2026-05-12 at 10:00:00.png",
    "Screenshot 2026-05-12 at 4.42.48\u202fPM.png",
    "a<b>c|d?e*f.png",
    'say "cheese".png',
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645.png",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467.png",
    "\u732b\u3000\u548c\u72d7.png",
    "e\u0301te\u0301.png",
    "100% #1 [x] {stem}.png",
    "-rf.png",
    "CON.png",
    "dots...png",
    " blank .png",
    "back\\slash.png",
    "line\nbreak.png",
    "tab\there.png",
    f"{'long' * 60}.png",
    f"{chr(0x732B) * 80}.png",
    "album one/10:30/cat.png",
    "album two./cat.png",
    "closed/cat.png",
)
"""Paths that some file system, shell or program does not take. "closed" refuses files at times."""

_REFUSED = '<>:"|?*\\\n\t'
"""As exFAT, NTFS and SMB."""

_PASSING = ("EIO", "EACCES", "EBUSY", "ETIMEDOUT", "ESTALE", "EMFILE")
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")


class MixedDiet:
    """Feeds a studio; a context manager that mounts its odd folders."""

    def __init__(self, studio: Studio, drops: Drops, rng: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self._studio = studio
        self._drops = drops
        self._rng = rng
        self._stack = contextlib.ExitStack()
        self._timers: list[threading.Timer] = []

    def __enter__(self) -> "MixedDiet":
        for folder, name_max in (("inbox", 255), ("outbox", 143), ("archive", 200)):
            refuses = "" if folder == "inbox" else _REFUSED
            self._stack.enter_context(
                odd_folder(
                    self._studio.root / folder,
                    name_max=name_max,
                    refuses=refuses,
                    flags=["no_permissions"],
                )
            )
        return self

    def __exit__(self, *error: object) -> None:
        self.settle()
        self._stack.close()

    def course(self) -> Iterator[tuple[float, Callable[[], None]]]:
        """Yield what happens in a round, each with its second."""
        for _ in range(self._rng.randint(1, 4)):
            yield self._rng.uniform(0, 0.6), self._drop
        if self._rng.random() < 0.6:
            yield self._rng.uniform(0, 0.6), self._half_copy
        if self._rng.random() < 0.6:
            yield self._rng.uniform(0, 1.0), self._passing_error
        if self._rng.random() < 0.3:
            yield self._rng.uniform(0, 1.0), self._closed_folder

    def settle(self) -> None:
        """Wait until each copy is complete and each error has passed."""
        for timer in self._timers:
            timer.join()
        self._timers.clear()

    def _later(self, what: Callable[[], None], seconds: float) -> None:
        timer = threading.Timer(seconds, what)
        timer.start()
        self._timers.append(timer)

    def _drop(self) -> None:
        self.counts["odd names"] += 1
        self._drops.drop(self._rng.choice(NAMES))

    def _half_copy(self) -> None:
        """Write a beginning in place; the rest comes later. Zeros may stand for the rest."""
        form = self._rng.choice(_FORMATS)
        self.counts[f"half copies, {form}"] += 1
        content = encoded(self._drops.count + 1000, form)
        self._drops.count += 1
        self._drops.audit.record(content, unusable=False)
        path = self._studio.inbox / f"half{self._drops.count}.{form.lower()}"
        part = self._rng.randrange(1, len(content))
        preallocated = self._rng.random() < 0.5
        path.write_bytes(content[:part] + bytes(len(content) - part if preallocated else 0))

        def complete() -> None:
            with path.open("r+b") as file:
                file.seek(part)
                file.write(content[part:])

        self._later(complete, self._rng.uniform(0.2, 2.5))

    def _passing_error(self) -> None:
        name = self._rng.choice(_PASSING)
        self.counts[f"passing {name}"] += 1
        trigger = self._studio.root / "inbox-far" / name
        trigger.write_text("*")
        self._later(lambda: trigger.unlink(missing_ok=True), self._rng.uniform(0.3, 2.5))

    def _closed_folder(self) -> None:
        self.counts["closed folders"] += 1
        folder = self._studio.root / "outbox-far" / "outbox" / "closed"
        folder.mkdir(exist_ok=True)
        folder.chmod(0o555)
        self._later(lambda: folder.chmod(0o755), self._rng.uniform(0.5, 3.0))


def encoded(seed: int, form: str) -> bytes:
    """Return a picture in a format, determined by the seed."""
    out = BytesIO()
    Image.open(BytesIO(picture(seed, (128, 96)))).save(out, form)
    return out.getvalue()


def backing(folder: Path) -> Path:
    """Return the folder behind an odd one; watching it costs the daemon nothing."""
    found = folder.with_name(f"{folder.name}-far") / folder.name
    return found if os.path.lexists(found) else folder
