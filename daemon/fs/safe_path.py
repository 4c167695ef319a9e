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

_NOWHERE = Path("/proc/self/fd/none")
"""A folder that does not exist and cannot be created."""


class UnsafePath(NotADirectoryError):
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
def find_beneath(root: Path, inside: PurePath) -> Iterator[Path]:
    """Open the folder `inside` of `root` as `open_beneath` does, if it exists.

    If it is missing, or a link is in its place, the path is one where nothing exists and nothing
    can be created. Raises OSError if that is not known.
    """
    with contextlib.ExitStack() as opened:
        try:
            folder = opened.enter_context(open_beneath(root, inside, make=False))
        except OSError as error:
            if not isinstance(error, UnsafePath) and error.errno not in _MISSING_ERRNOS:
                raise
            folder = _NOWHERE
            opened.enter_context(_usual_names(folder, root / inside))
        yield folder


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
    """The descriptor of a folder, on the way from a root downwards."""

    def __init__(self, root: Path) -> None:
        self.inside = PurePath()
        self._root = root
        self._descriptor = os.open(root, _OPEN_FLAGS)

    def close(self) -> None:
        os.close(self._descriptor)

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
        os.close(self._descriptor)
        self._descriptor = descriptor
        self.inside /= part

    def usual_names(self) -> contextlib.AbstractContextManager[None]:
        return _usual_names(self.folder, self.usual_path)


@contextlib.contextmanager
def _usual_names(opened: Path, usual: Path) -> Iterator[None]:
    """Replace the path of an opened folder by the usual one in errors."""

    try:
        yield
    except OSError as error:
        # set only where there is a name: with None as a name the message is lost
        for key in ("filename", "filename2"):
            name = getattr(error, key)
            if isinstance(name, str) and (name == str(opened) or name.startswith(f"{opened}/")):
                setattr(error, key, str(usual) + name.removeprefix(str(opened)))
        raise


@contextlib.contextmanager
def _walk(root: Path, inside: PurePath) -> Iterator[_Walk]:
    if inside.is_absolute() or ".." in inside.parts:
        raise ValueError(f"{inside} may lead out of {root}")
    with contextlib.closing(_Walk(root)) as walk:
        yield walk
