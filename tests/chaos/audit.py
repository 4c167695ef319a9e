"""Audit of a chaos run: do the folders account for all submitted pictures?

Reads only files, as a user would; the daemon's own state does not count.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from daemon.publish.posters import POSTERS
from daemon.storage.ownership import OWNER
from daemon.storage.volumes import MARKER
from tests.system.studio import Studio, visible


@dataclass
class Audit:
    """SHA-256 of the submitted pictures: those that must become clips, and those that cannot."""

    usable: Counter[str] = field(default_factory=Counter)
    unusable: Counter[str] = field(default_factory=Counter)

    def record(self, content: bytes, *, unusable: bool) -> None:
        """Record a submitted picture."""
        (self.unusable if unusable else self.usable)[hashlib.sha256(content).hexdigest()] += 1

    def errors(self, studio: Studio) -> Iterator[str]:
        """Yield everything lost, duplicated or misplaced; call it while the daemon is idle."""
        yield from _differences("the archive", self.usable, _pictures(studio.archive))
        yield from _differences("failed/", self.unusable, _pictures(studio.failed))
        yield from _differences("the clips", self.usable, Counter(_clip_sources(studio.outbox)))
        yield from _reasons(studio.failed)
        yield from _clips(studio.outbox)
        yield from _leftovers(studio)


def _pictures(folder: Path) -> Counter[str]:
    files = (p for p in visible(folder, "*") if p.is_file() and p.suffix not in (".json", ".txt"))
    return Counter(digest(file) for file in files)


def _clip_sources(outbox: Path) -> Iterator[str]:
    for sidecar in visible(outbox, "*.mp4.json"):
        yield json.loads(sidecar.read_bytes())["source"]["sha256"]


def _differences(where: str, expected: Counter[str], found: Counter[str]) -> Iterator[str]:
    for lost, count in (expected - found).items():
        yield f"{where}: {count} of picture {lost[:8]} missing"
    for duplicate, count in (found - expected).items():
        yield f"{where}: {count} of picture {duplicate[:8]} too many"


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
        yield from clip_errors(clip)


def clip_errors(clip: Path) -> Iterator[str]:
    """Yield the errors of one clip: its sidecar is missing or describes another clip."""
    try:
        output = json.loads(clip.with_name(f"{clip.name}.json").read_bytes())["output"]
    except (OSError, ValueError, KeyError) as error:
        yield f"{clip}: no sound sidecar ({error})"
        return
    if digest(clip) != output["sha256"]:
        yield f"{clip}: other bytes than its sidecar states"


def _leftovers(studio: Studio) -> Iterator[str]:
    """Yield files that nothing will ever remove."""
    for folder in (studio.outbox, studio.archive, studio.failed, studio.inbox):
        for path in folder.rglob("*"):
            name = path.relative_to(folder).as_posix()
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            ours = name in (".i2vd", MARKER, OWNER) or name.startswith(str(POSTERS))
            if hidden and not ours:
                yield f"{path}: left behind"
            elif folder is studio.inbox and path.is_file() and not hidden:
                yield f"{path}: still in the inbox"


def digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
