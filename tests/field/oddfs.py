"""A folder as an odd file system shows it, through FUSE.

    python -m tests.field.oddfs BACKING MOUNTPOINT [--name-max N] [--refuse CHARACTERS] [--FLAG ...]

Refuses names as exFAT and SMB do, permissions as CIFS does, or links. While a file with the name of
an error (`EIO`, `EACCES`, `ETIMEDOUT`, ...) is beside BACKING, reading pictures fails with it. The
file's text, if any, is a pattern of the names that are affected.
"""

# FUSE hands over paths as strings, and each operation is the call of that name.
# ruff: noqa: PTH101, PTH102, PTH104, PTH106, PTH108, PTH119, PTH208
import argparse
import errno
import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import mfusepy as fuse
from mfusepy import FuseOSError

_AT_OPEN = ("EACCES", "EPERM", "EBUSY", "EMFILE", "ENFILE")
_AT_READ = ("EIO", "ETIMEDOUT", "EHOSTDOWN", "ESTALE", "ENOMEM")
_STATUS = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_ino")
_SPACE = (
    "f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_favail", "f_ffree", "f_files", "f_flag",
    "f_frsize", "f_namemax",
)  # fmt: skip


class OddFileSystem(fuse.Operations):
    """Passes operations on to a folder, except those that it refuses."""

    use_ns = True

    def __init__(self, backing: Path, options: argparse.Namespace) -> None:
        self.backing = backing.resolve()
        self.options = options

    def _path(self, path: str, *, new: bool = False) -> str:
        name = os.path.basename(path)
        if len(os.fsencode(name)) > self.options.name_max:
            raise FuseOSError(errno.ENAMETOOLONG)
        if any(character in name for character in self.options.refuse):
            raise FuseOSError(errno.EINVAL if new else errno.ENOENT)
        return f"{self.backing}{path}"

    def _fail_if_told(self, path: str, names: tuple[str, ...]) -> None:
        for name in names:
            trigger = self.backing.parent / name
            if trigger.exists():
                pattern = trigger.read_text().strip() or "*.png"
                if fnmatch(os.path.basename(path), pattern):
                    raise FuseOSError(getattr(errno, name))

    def _refuse_permissions(self) -> None:
        if self.options.no_permissions:
            raise FuseOSError(errno.EPERM)

    # --- names

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        """Return the status of a file."""
        status = os.lstat(self._path(path))
        times = {f"st_{each}time": getattr(status, f"st_{each}time_ns") for each in "amc"}
        return {key: getattr(status, key) for key in _STATUS} | times

    def readdir(self, path: str, fh: int) -> Iterator[tuple[str, Any, int]]:
        """Yield the names in a folder."""
        yield from ((name, None, 0) for name in (".", ".."))
        for name in os.listdir(self._path(path)):
            try:
                yield name, self.getattr(f"{path.rstrip('/')}/{name}"), 0
            except OSError:
                continue

    def mkdir(self, path: str, mode: int) -> None:
        """Create a folder."""
        os.mkdir(self._path(path, new=True), mode)

    def rmdir(self, path: str) -> None:
        """Remove a folder."""
        os.rmdir(self._path(path))

    def unlink(self, path: str) -> None:
        """Remove a file."""
        os.unlink(self._path(path))

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        """Rename a file; no flags, as most FUSE file systems."""
        if flags:
            raise FuseOSError(errno.EINVAL)
        os.rename(self._path(old), self._path(new, new=True))

    def link(self, target: str, source: str) -> None:
        """Link a file."""
        if self.options.no_links:
            raise FuseOSError(errno.EPERM)
        os.link(self._path(source), self._path(target, new=True))

    # --- content

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        """Create and open a file."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        return os.open(self._path(path, new=True), flags, mode & 0o777)

    def open(self, path: str, flags: int) -> int:
        """Open a file."""
        if not flags & os.O_ACCMODE:
            self._fail_if_told(path, _AT_OPEN)
        return os.open(self._path(path), flags & ~(os.O_EXCL | os.O_CREAT | os.O_NOFOLLOW))

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """Read from a file."""
        self._fail_if_told(path, _AT_READ)
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        """Write to a file."""
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        """Set the length of a file."""
        os.truncate(self._path(path), length)

    def flush(self, path: str, fh: int) -> None:
        """Do nothing at close(2)."""

    def fsync(self, path: str, datasync: int, fh: int) -> None:
        """Make a file durable."""
        os.fsync(fh)

    def fsyncdir(self, path: str, datasync: int, fh: int) -> None:
        """Do nothing: the names of the backing folder are durable enough for tests."""

    def release(self, path: str, fh: int) -> None:
        """Close a file."""
        os.close(fh)

    # --- permissions and times

    def chmod(self, path: str, mode: int) -> None:
        """Change the mode."""
        self._refuse_permissions()
        os.chmod(self._path(path), mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        """Change the owner."""
        self._refuse_permissions()
        os.chown(self._path(path), uid, gid)

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        """Change the times, in nanoseconds."""
        self._refuse_permissions()
        os.utime(self._path(path), ns=times)

    def statfs(self, path: str) -> dict[str, int]:
        """Return the free space."""
        space = os.statvfs(self.backing)
        found = {key: getattr(space, key) for key in _SPACE}
        return found | {"f_namemax": self.options.name_max}


def main() -> None:
    """Serve the folder until it is unmounted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("backing", type=Path)
    parser.add_argument("mountpoint")
    parser.add_argument("--name-max", type=int, default=255, help="bytes")
    parser.add_argument("--refuse", default="", help="characters")
    for flag in ("--no-permissions", "--no-links", "--new-inodes"):
        parser.add_argument(flag, action="store_true")
    options = parser.parse_args()
    inodes = {} if options.new_inodes else {"use_ino": True}
    fuse.FUSE(
        OddFileSystem(options.backing, options),
        options.mountpoint,
        foreground=True,
        nothreads=True,
        allow_other=True,
        attr_timeout=0,
        entry_timeout=0,
        **inodes,
    )


if __name__ == "__main__":
    main()
