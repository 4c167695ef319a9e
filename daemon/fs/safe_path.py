"""Open paths below a root without following symlinks.

The roots are the operator's and may be links. Others may have created what is below them: a link
there is not followed, not even one that replaces a folder while it is in use.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from daemon.fs.probe import check_takes_files, find_name_rules

_OPEN_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MISSING_ERRNOS = (errno.ENOENT, errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG)
"""Errors for a name that is not there, or that the file system does not take."""


class UnsafePath(OSError):
    """A link or a file is in the place of a folder."""


@contextlib.contextmanager
def open_beneath(root: Path, inside: PurePath, *, make: bool = True) -> Iterator[Path]:
    """Open the folder `inside` of `root`; yield a path that stays valid across renames.

    The path is /proc/self/fd/N; errors name the folder by its usual path. With `make`, missing
    folders are created. Raises OSError and UnsafePath.
    """
    with _walk(root, inside) as walk:
        for part in inside.parts:
            walk.enter(part, make=make)
        with walk.usual_names():
            yield walk.folder


@contextlib.contextmanager
def create_beneath(root: Path, inside: PurePath) -> Iterator[tuple[Path, PurePath]]:
    """Open the folder `inside` of `root` as `open_beneath` does, and create what is missing.

    A name that its folder does not take is spelled so that it does. Yields the path and the names
    as they were spelled.
    """
    with _walk(root, inside) as walk:
        for part in inside.parts:
            try:
                walk.enter(part, make=True)
            except UnsafePath:
                raise
            except OSError:
                with walk.usual_names():
                    rules = find_name_rules(walk.folder, part)
                if rules is None:
                    raise
                walk.enter(rules.spell(part), make=True)
        with walk.usual_names():
            yield walk.folder, walk.inside


def check_beneath(root: Path, inside: PurePath) -> None:
    """Check that the folder `inside` of `root`, as far as it exists, takes files.

    Raises the OSError of the folder that does not, or UnsafePath.
    """
    with _walk(root, inside) as walk:
        for part in inside.parts:
            try:
                walk.enter(part, make=False)
            except UnsafePath:
                raise
            except OSError as error:
                if error.errno not in _MISSING_ERRNOS:
                    raise
                break
        with walk.usual_names():
            check_takes_files(walk.folder)


class _Walk:
    """Descriptors of the folders from a root downwards."""

    def __init__(self, root: Path, opened: contextlib.ExitStack) -> None:
        self.inside = PurePath()
        self._root = root
        self._opened = opened
        self._descriptor = self._keep(os.open(root, _OPEN_FLAGS))

    @property
    def folder(self) -> Path:
        return Path(f"/proc/self/fd/{self._descriptor}")

    @property
    def usual_path(self) -> Path:
        return self._root / self.inside

    def enter(self, part: str, *, make: bool) -> None:
        usual_path = str(self.usual_path / part)
        refusal: OSError | None = None
        if make:
            try:
                os.mkdir(part, dir_fd=self._descriptor)  # relative to a descriptor
            except FileExistsError:
                pass
            except OSError as error:
                refusal = OSError(error.errno, error.strerror, usual_path)
        try:
            descriptor = os.open(part, _OPEN_FLAGS | os.O_NOFOLLOW, dir_fd=self._descriptor)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                reason = "a link or a file stands in the place of a folder; remove it"
                raise UnsafePath(error.errno, reason, usual_path) from error
            raise refusal or OSError(error.errno, error.strerror, usual_path) from error
        self._descriptor = self._keep(descriptor)
        self.inside /= part

    @contextlib.contextmanager
    def usual_names(self) -> Iterator[None]:
        """Replace the path of the descriptor by the usual one in errors."""
        try:
            yield
        except OSError as error:
            error.filename = self._usual_name(error.filename)
            error.filename2 = self._usual_name(error.filename2)
            raise

    def _usual_name(self, name: object) -> object:
        folder = str(self.folder)
        if isinstance(name, str) and (name == folder or name.startswith(f"{folder}/")):
            return str(self.usual_path) + name.removeprefix(folder)
        return name

    def _keep(self, descriptor: int) -> int:
        self._opened.callback(os.close, descriptor)
        return descriptor


@contextlib.contextmanager
def _walk(root: Path, inside: PurePath) -> Iterator[_Walk]:
    if inside.is_absolute() or ".." in inside.parts:
        raise ValueError(f"{inside} may lead out of {root}")
    with contextlib.ExitStack() as opened:
        yield _Walk(root, opened)
