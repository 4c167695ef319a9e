"""Publication, exactly once: the sidecar gets its name first, then the clip.

The clip's name is the commit point, and no clip is ever visible without its sidecar. Every step may
be repeated after a crash; the sidecar's digest identifies a publication that was begun.
"""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from daemon.fs.atomic import (
    CommitMethod,
    hidden_name,
    is_same_file,
    probe_commit_method,
    publish_exclusive,
)
from daemon.fs.content import has_same_content
from daemon.fs.move import copy_file
from daemon.fs.names import UNCHANGED, NameRules, may_be_spelling, numbered_names
from daemon.fs.probe import find_name_rules
from daemon.fs.safe_path import check_beneath, create_beneath, find_beneath
from daemon.publish.staging import withdrawn
from pipeline.durable import fsync_dir
from rules.text_file import NotRegular, read_bytes

CLIP = "clip.mp4"
SIDECAR = "clip.mp4.json"
_JSON = ".json"
_SUFFIX = f".mp4{_JSON}"


def check_clip_folder(outbox: Path, clip_name: str) -> None:
    """Check that a clip can be published to its folder; called before generation.

    The outbox itself is left to storage health. Raises the OSError of a folder that refuses files.
    """
    folder = PurePath(clip_name).parent
    if folder.parts:
        check_beneath(outbox, folder)


class ClipLost(Exception):
    """The clip is neither in staging nor in the outbox."""


def publish(
    staging: Path,
    outbox: Path,
    clip_name: str,
    method: CommitMethod,
    sidecar_sha256: str,
    *,
    first: bool = False,
) -> Path:
    """Publish the staged sidecar, then the clip; return the clip's final path.

    `staging` is below `outbox`. `clip_name` is the requested path in the outbox without ".mp4". If
    the name is taken, "-2" and so on is added; if the folder does not take such a name, it is
    spelled so that it does.
    `sidecar_sha256` is the digest of the staged sidecar; it identifies a publication that a crash
    interrupted. `first`: there is none to look for. Raises ClipLost, and OSError, which names the
    folder or file that refused.
    """
    requested = PurePath(clip_name)
    with (
        find_beneath(outbox, staging.relative_to(outbox)) as staged,
        create_beneath(outbox, requested.parent) as (folder, parent),
    ):
        publication = _Publication(staged, folder, requested.name, method, sidecar_sha256)
        clip = None if first else publication.resume()
        clip = clip or publication.place()
        fsync_dir(folder)
    return outbox / parent / clip.name


def withdraw(
    staging: Path, outbox: Path, clip_name: str, method: CommitMethod, sidecar_sha256: str
) -> Path | None:
    """Take back what an interrupted publication has placed, so that it can be cancelled.

    Returns the clip's path if it is in the outbox already: then it was published. Staging is
    renamed first, so that no other host can go on with the publication. Safe to repeat after a
    crash. Raises OSError.
    """
    requested = PurePath(clip_name)
    inside = staging.relative_to(outbox)
    aside = inside.with_name(withdrawn(inside.name))
    with find_beneath(outbox, inside.parent) as private, contextlib.suppress(FileNotFoundError):
        (private / inside.name).rename(private / aside.name)
    with (
        find_beneath(outbox, aside) as staged,
        create_beneath(outbox, requested.parent) as (folder, parent),
    ):
        publication = _Publication(staged, folder, requested.name, method, sidecar_sha256)
        if (clip := publication.find_clip()) is None:
            return None
        return outbox / parent / clip.name


class _Publication:
    """One clip on its way from staging to its folder."""

    def __init__(
        self, staging: Path, folder: Path, stem: str, method: CommitMethod, sidecar_sha256: str
    ) -> None:
        self._staged_clip = staging / CLIP
        self._staged_sidecar = staging / SIDECAR
        self._folder = folder
        self._stem = stem
        self._method = method
        self._sidecar_sha256 = sidecar_sha256

    def place(self) -> Path:
        """Give sidecar and clip the first free name that the folder takes."""
        try:
            return self._place(UNCHANGED)
        except OSError:
            rules = find_name_rules(self._folder, self._stem, _SUFFIX)
            if rules is None or not self._staged_sidecar.exists():
                raise
        return self._place(rules)

    def resume(self) -> Path | None:
        """Complete a publication that was begun; None if there is none. Raises ClipLost."""
        begun, is_staged = self._find_begun(), self._staged_clip.exists()
        if begun is not None and not is_staged and begun.exists():
            return begun
        if not is_staged or (begun is None and not self._staged_sidecar.exists()):
            raise ClipLost("its staging folder was removed before the clip was published")
        if begun is None:
            return None
        if _is_copy(self._staged_clip, begun) or self._place_clip(begun):
            return begun
        self._withdraw_sidecar(begun)
        return None

    def find_clip(self) -> Path | None:
        """Return the clip if it has its name; else take back its sidecar and return None."""
        begun, is_staged = self._find_begun(), self._staged_clip.exists()
        if begun is None:
            return None
        if begun.exists() and (not is_staged or _is_copy(self._staged_clip, begun)):
            return begun
        _sidecar_of(begun).unlink()
        return None

    def _place(self, rules: NameRules) -> Path:
        for name in numbered_names(self._stem, _SUFFIX, rules):
            clip = self._folder / name.removesuffix(_JSON)
            if not self._give_name(self._staged_sidecar, _sidecar_of(clip)):
                continue
            if self._give_name(self._staged_clip, clip):
                return clip
            self._withdraw_sidecar(clip)
        raise FileExistsError(f"a million clips named {self._stem} in {self._folder}")

    def _place_clip(self, clip: Path) -> bool:
        """Place the clip under the name that its sidecar has; False if another file has it."""
        if self._method is CommitMethod.RESERVE and _size(clip) == 0:  # reserved before a crash
            self._staged_clip.rename(clip)
            return True
        return self._give_name(self._staged_clip, clip)

    def _give_name(self, staged: Path, target: Path) -> bool:
        """Publish one file; through a copy if its folder is on a file system of its own."""
        try:
            return publish_exclusive(staged, target, self._method)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        copy = hidden_name(target, "part")
        try:
            copy_file(staged, copy)
            return publish_exclusive(copy, target, probe_commit_method(self._folder))
        finally:
            copy.unlink(missing_ok=True)

    def _withdraw_sidecar(self, clip: Path) -> None:
        """Take back a sidecar whose clip name is held by another file."""
        if self._staged_sidecar.exists():
            _sidecar_of(clip).unlink()
        else:
            _sidecar_of(clip).rename(self._staged_sidecar)

    def _find_begun(self) -> Path | None:
        """Return the clip path of an interrupted publication, or None."""
        size = _size(self._staged_sidecar)
        for sidecar in sorted(self._possible_sidecars()):
            if size is not None and size != _size(sidecar):
                continue
            if is_same_file(self._staged_sidecar, sidecar) or (
                _digest(sidecar) == self._sidecar_sha256
            ):
                return sidecar.with_name(sidecar.name.removesuffix(_JSON))
        return None

    def _possible_sidecars(self) -> Iterator[Path]:
        for name in os.listdir(self._folder):  # noqa: PTH208, names alone are faster
            if name.endswith(_SUFFIX) and may_be_spelling(name.removesuffix(_SUFFIX), self._stem):
                yield self._folder / name


def _sidecar_of(clip: Path) -> Path:
    return clip.with_name(clip.name + _JSON)


def _is_copy(staged: Path, clip: Path) -> bool:
    return clip.exists() and has_same_content(staged, clip)


def _size(file: Path) -> int | None:
    try:
        return file.lstat().st_size
    except FileNotFoundError:
        return None


def _digest(sidecar: Path) -> str | None:
    """Return the SHA-256 of a sidecar; None for a folder, a pipe or a link. Raises OSError."""
    try:
        return hashlib.sha256(read_bytes(sidecar)).hexdigest()
    except NotRegular:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise
