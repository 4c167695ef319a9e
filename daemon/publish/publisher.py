"""Publication, exactly once: the sidecar gets its name first, then the clip.

The clip's name is the commit point, and no clip is ever visible without its sidecar. Every step may
be repeated after a crash; the sidecar's own bytes tell whose it is.
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
    numbered_names,
    publish_exclusive,
)
from daemon.fs.safe_path import UnsafePath, open_beneath

CLIP = "clip.mp4"
SIDECAR = "clip.mp4.json"
_JSON = ".json"


def find_obstacle(outbox: Path, clip_name: str) -> str | None:
    """What keeps a clip from its folder in the outbox, before any work is put into it."""
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
    """Give the staged clip and its sidecar their names in the outbox; the clip's final path.

    `clip_name` is the wished path there without ".mp4"; where another file holds it, "-2" and so
    on. `sidecar_sha256` is the digest of the staged sidecar, by which a half-done publication is
    known again; `first` says that there is none. Raises OSError.
    """
    wish = PurePath(clip_name)
    with open_beneath(outbox, wish.parent) as folder:
        clip = _publish(staging, folder, wish.name, method, None if first else sidecar_sha256)
    return outbox / wish.with_name(clip.name)


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
    """Place it, unless it was placed before the crash: a renamed clip has left staging."""
    if clip.exists() and (not staged.exists() or filecmp.cmp(staged, clip, shallow=False)):
        return True
    return publish_exclusive(staged, clip, method)


def _withdraw_sidecar(sidecar: Path, staged: Path) -> None:
    """The clip's name is held by another file: the sidecar must not claim it."""
    if staged.exists():
        sidecar.unlink()
    else:
        sidecar.rename(staged)


def _find_begun_publication(
    staging: Path, folder: Path, stem: str, sidecar_sha256: str
) -> Path | None:
    """The clip's name that an interrupted publication had begun to take."""
    staged = staging / SIDECAR
    beginning = stem.encode()[:200].decode(errors="ignore")
    for sidecar in sorted(folder.glob(f"{glob.escape(beginning)}*.mp4{_JSON}")):
        if is_same_file(staged, sidecar) or _digest(sidecar) == sidecar_sha256:
            return sidecar.with_name(sidecar.name.removesuffix(_JSON))
    return None


def _digest(sidecar: Path) -> str:
    return hashlib.sha256(sidecar.read_bytes()).hexdigest()
