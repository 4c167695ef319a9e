"""Kernel cache: what Triton has built of our kernels, kept over restarts and bounded.

Triton keys it by the code, its own version, the card, the driver's CUDA and the compiler's flags,
and never removes anything. This module does: other versions, and all of it above a bound.
"""

import os
import shutil
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryFile

VARIABLE = "TRITON_CACHE_DIR"
MAX_BYTES = 2 << 30
"""Bytes after which one begins anew."""
MIN_FREE_BYTES = 1 << 20
"""Bytes for which there must be room."""
_PREFIX = "i2vd-torch-"


def keep() -> Path:
    """Have kernels kept in a folder of these versions, in the one that $VARIABLE names.

    Without it, in Triton's own below the home folder. What was kept for other versions is removed,
    and too much as well. Raises OSError, also where there is no room.
    """
    base = Path(os.environ.get(VARIABLE) or Path.home() / ".triton" / "cache")
    mine = base if base.name == _named() else base / _named()
    if _held(mine) > MAX_BYTES:
        shutil.rmtree(mine, ignore_errors=True)
    mine.mkdir(parents=True, exist_ok=True)
    _write_probe(mine)
    for other in mine.parent.glob(f"{_PREFIX}*"):
        if other != mine:
            shutil.rmtree(other, ignore_errors=True)
    os.environ[VARIABLE] = str(mine)
    return mine


def _held(folder: Path) -> int:
    """Bytes of the files in it; another worker may add and remove some meanwhile."""
    held = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                held += Path(where, name).lstat().st_size
    return held


def _write_probe(folder: Path) -> None:
    try:
        with TemporaryFile(dir=folder) as file:
            file.write(bytes(MIN_FREE_BYTES))
            file.flush()
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(folder)) from None


def _named() -> str:
    """By what makes code of one version useless to another."""
    named = f"{_PREFIX}{version('torch')}"
    for package in ("triton", "i2vd"):
        with suppress(PackageNotFoundError):
            named += f"-{package}-{version(package)}"
    return named
