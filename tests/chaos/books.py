"""The books of a chaos run: what was dropped, and whether the folders account for all of it.

Reads nothing but files, as a user would; what the daemon believes does not count.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from daemon.publish.posters import POSTERS
from daemon.storage.marker import MARKER
from tests.system.studio import Studio, visible


@dataclass
class Books:
    """Digests of the pictures dropped: those that must become clips, and those that cannot."""

    sound: Counter[str] = field(default_factory=Counter)
    doomed: Counter[str] = field(default_factory=Counter)

    def enter(self, content: bytes, *, doomed: bool) -> None:
        """A picture is dropped."""
        (self.doomed if doomed else self.sound)[hashlib.sha256(content).hexdigest()] += 1

    def complaints(self, studio: Studio) -> Iterator[str]:
        """All that is lost, doubled, or in the wrong place, once the daemon is at rest."""
        yield from _differences("the archive", self.sound, _pictures(studio.archive))
        yield from _differences("failed/", self.doomed, _pictures(studio.failed))
        yield from _differences("the clips", self.sound, Counter(_clip_sources(studio.outbox)))
        yield from _reasons(studio.failed)
        yield from _clips(studio.outbox)
        yield from _litter(studio)


def _pictures(folder: Path) -> Counter[str]:
    files = (p for p in visible(folder, "*") if p.is_file() and p.suffix not in (".json", ".txt"))
    return Counter(digest(file) for file in files)


def _clip_sources(outbox: Path) -> Iterator[str]:
    for sidecar in visible(outbox, "*.mp4.json"):
        yield json.loads(sidecar.read_bytes())["source"]["sha256"]


def _differences(where: str, wanted: Counter[str], found: Counter[str]) -> Iterator[str]:
    for lost, count in (wanted - found).items():
        yield f"{where}: {count} of picture {lost[:8]} missing"
    for doubled, count in (found - wanted).items():
        yield f"{where}: {count} of picture {doubled[:8]} too many"


def _reasons(failed: Path) -> Iterator[str]:
    for picture in visible(failed, "*.png"):
        reason = picture.with_name(f"{picture.name}.reason.json")
        if not reason.exists() or not json.loads(reason.read_bytes())[0]["reason"]:
            yield f"{picture}: no reason beside it"


def _clips(outbox: Path) -> Iterator[str]:
    clips = set(visible(outbox, "*.mp4"))
    sidecars = {p.with_name(p.name.removesuffix(".json")) for p in visible(outbox, "*.mp4.json")}
    for clip in sorted(clips ^ sidecars):
        yield f"{clip}: {'no sidecar' if clip in clips else 'a sidecar without its clip'}"
    for clip in sorted(clips & sidecars):
        yield from faults(clip)


def faults(clip: Path) -> Iterator[str]:
    """What is wrong with one clip: its sidecar is missing, or tells of another one."""
    try:
        told = json.loads(clip.with_name(f"{clip.name}.json").read_bytes())["output"]
    except (OSError, ValueError, KeyError) as error:
        yield f"{clip}: no sound sidecar ({error})"
        return
    if digest(clip) != told["sha256"]:
        yield f"{clip}: other bytes than its sidecar tells"


def _litter(studio: Studio) -> Iterator[str]:
    """What nobody will ever remove."""
    for folder in (studio.outbox, studio.archive, studio.failed, studio.inbox):
        for path in folder.rglob("*"):
            name = path.relative_to(folder).as_posix()
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            ours = name in (".i2vd", MARKER) or name.startswith(str(POSTERS))
            if hidden and not ours:
                yield f"{path}: left behind"
            elif folder is studio.inbox and path.is_file() and not hidden:
                yield f"{path}: still in the inbox"


def digest(file: Path) -> str:
    """The sha256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
