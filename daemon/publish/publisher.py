"""Publication, exactly once: the sidecar gets its name first, then the clip.

The clip's name is the commit point, and no clip is ever visible without its sidecar. Every step may
be repeated after a crash; the sidecar's digest identifies a publication that was begun.
"""

import filecmp
import glob
import hashlib
from pathlib import Path, PurePath

from daemon.fs.atomic import (
    CommitMethod,
    describe_os_error,
    fsync_dir,
    is_same_file,
    publish_exclusive,
)
from daemon.fs.names import numbered_names
from daemon.fs.safe_path import UnsafePath, open_beneath
from rules.text_file import read_bytes

CLIP = "clip.mp4"
SIDECAR = "clip.mp4.json"
_JSON = ".json"


def find_obstacle(outbox: Path, clip_name: str) -> str | None:
    """Return why a clip cannot be published to its folder, or None; checked before generation."""
    try:
        with open_beneath(outbox, PurePath(clip_name).parent, make=False):
            return None
    except FileNotFoundError:
        return None
    except UnsafePath as error:
        return describe_os_error(error)


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

    `clip_name` is the requested path in the outbox without ".mp4". If the name is taken, "-2" and
    so on is added. `sidecar_sha256` is the digest of the staged sidecar; it identifies a
    publication that a crash interrupted. `first`: there is none to look for. Raises OSError.
    """
    requested = PurePath(clip_name)
    with open_beneath(outbox, requested.parent) as folder:
        digest = None if first else sidecar_sha256
        clip = _publish(staging, folder, requested.name, method, digest)
    return outbox / requested.with_name(clip.name)


def _publish(
    staging: Path, folder: Path, stem: str, method: CommitMethod, sidecar_sha256: str | None
) -> Path:
    begun = (
        None
        if sidecar_sha256 is None
        else _find_begun_publication(staging, folder, stem, sidecar_sha256)
    )
    if begun is not None:
        if _place_clip(staging / CLIP, begun, method):
            fsync_dir(folder)
            return begun
        _withdraw_sidecar(_sidecar_of(begun), staging / SIDECAR)
    for name in numbered_names(stem, f".mp4{_JSON}"):
        clip = folder / name.removesuffix(_JSON)
        if not publish_exclusive(staging / SIDECAR, _sidecar_of(clip), method):
            continue
        if publish_exclusive(staging / CLIP, clip, method):
            fsync_dir(folder)
            return clip
        _withdraw_sidecar(_sidecar_of(clip), staging / SIDECAR)
    raise FileExistsError(f"a million clips named {stem} in {folder}")


def _sidecar_of(clip: Path) -> Path:
    return clip.with_name(clip.name + _JSON)


def _place_clip(staged: Path, clip: Path, method: CommitMethod) -> bool:
    """Place the clip unless it was placed before a crash; a renamed clip has left staging."""
    if clip.exists() and (not staged.exists() or filecmp.cmp(staged, clip, shallow=False)):
        return True
    return publish_exclusive(staged, clip, method)


def _withdraw_sidecar(sidecar: Path, staged: Path) -> None:
    """Take back a sidecar whose clip name is held by another file."""
    if staged.exists():
        sidecar.unlink()
    else:
        sidecar.rename(staged)


def _find_begun_publication(
    staging: Path, folder: Path, stem: str, sidecar_sha256: str
) -> Path | None:
    """Return the clip path of an interrupted publication, or None."""
    staged = staging / SIDECAR
    beginning = stem.encode()[:200].decode(errors="ignore")
    for sidecar in sorted(folder.glob(f"{glob.escape(beginning)}*.mp4{_JSON}")):
        if is_same_file(staged, sidecar) or _digest(sidecar) == sidecar_sha256:
            return sidecar.with_name(sidecar.name.removesuffix(_JSON))
    return None


def _digest(sidecar: Path) -> str:
    return hashlib.sha256(read_bytes(sidecar)).hexdigest()
