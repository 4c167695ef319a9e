"""The cache of compiled code, kept over restarts: for these versions alone, and bounded.

torch keys what lies in it by the code, the shapes, its own version, the card, the driver's CUDA
and the compiler's flags. What it never does is to remove anything.
"""

import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
MOST = 2 << 30
"""Bytes after which one begins anew."""
_PREFIX = "i2vd-"


def keep() -> Path:
    """Have compiled code kept in a folder of these versions, in the one that $VARIABLE names.

    Without it, in torch's own below the folder for temporary files. What was kept for other
    versions is removed, and too much as well. Raises OSError.
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    base = Path(cache_dir())
    mine = base if base.name.startswith(_PREFIX) else base / _named()
    if sum(map(_size, mine.rglob("*"))) > MOST:
        shutil.rmtree(mine)
    mine.mkdir(parents=True, exist_ok=True)
    for other in mine.parent.glob(f"{_PREFIX}*"):
        if other != mine:
            shutil.rmtree(other, ignore_errors=True)
    os.environ[VARIABLE] = str(mine)
    return mine


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:  # another worker's, gone meanwhile
        return 0


def _named() -> str:
    """By what makes code of one version useless to another."""
    parts = [f"torch-{version('torch')}"]
    for package in ("triton", "i2vd"):
        try:
            parts.append(f"{package}-{version(package)}")
        except PackageNotFoundError:
            continue
    return _PREFIX + "-".join(parts)
