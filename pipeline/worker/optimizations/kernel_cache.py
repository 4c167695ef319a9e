"""Kernel cache: compiled Triton kernels, kept over restarts and limited in size.

Triton's cache key is the code, Triton's version, the GPU, the driver's CUDA and the compiler's
flags, and Triton never removes an entry. This module removes kernels of other versions, and the
whole cache above `MAX_BYTES`.
"""

import os
import shutil
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryFile

VARIABLE = "TRITON_CACHE_DIR"
MAX_BYTES = 2 << 30
"""The cache is emptied above this size."""
MIN_FREE_BYTES = 1 << 20
"""Free space that the cache folder must have."""
_PREFIX = "i2vd-torch-"


def set_up() -> Path:
    """Create the cache folder of the installed versions, prune the cache, and set $VARIABLE.

    The folder is inside the one that $VARIABLE names, or inside Triton's default below the home
    folder. Folders of other versions are removed. Raises OSError, also if the disk is full.
    """
    base = Path(os.environ.get(VARIABLE) or Path.home() / ".triton" / "cache")
    own = base if base.name == _folder_name() else base / _folder_name()
    if _size_of(own) > MAX_BYTES:
        shutil.rmtree(own, ignore_errors=True)
    own.mkdir(parents=True, exist_ok=True)
    _write_probe(own)
    for other in own.parent.glob(f"{_PREFIX}*"):
        if other != own:
            shutil.rmtree(other, ignore_errors=True)
    os.environ[VARIABLE] = str(own)
    return own


def _size_of(folder: Path) -> int:
    """Sum the bytes of the files in a folder; another worker may add and remove some meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(parent, name).lstat().st_size
    return total


def _write_probe(folder: Path) -> None:
    try:
        with TemporaryFile(dir=folder) as file:
            file.write(bytes(MIN_FREE_BYTES))
            file.flush()
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(folder)) from None


def _folder_name() -> str:
    """Return a name with the versions that compiled kernels depend on."""
    folder_name = f"{_PREFIX}{version('torch')}"
    for package in ("triton", "i2vd"):
        with suppress(PackageNotFoundError):
            folder_name += f"-{package}-{version(package)}"
    return folder_name
