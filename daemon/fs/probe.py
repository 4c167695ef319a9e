"""Probe: find out by trial what a folder takes: content, files, names.

A probe is hidden, and removed at once. What a killed process left is removed by the next sweep.
"""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from daemon.fs.names import NameRules, is_plain, unusual_characters
from pipeline.durable import fsync_file

PROBE = ".i2vd-probe-"
_STALE_PATTERNS = (f"{PROBE}*", ".i2vd-*.part")
_TEST_CONTENT = bytes(2**20)
_STALE_SECONDS = 600.0
"""Age after which a probe or an unfinished copy is stale, on this host or another."""
_LONGEST_NUMBER = "-999999"
"""Follows a name that another file has."""


def write_probe(folder: Path) -> None:
    """Write a megabyte to a folder, fsync it, and remove it. Raises OSError."""
    probe = new_probe(folder)
    try:
        with probe.open("xb") as file:
            file.write(_TEST_CONTENT)
            file.flush()
            fsync_file(file.fileno())
    except OSError as error:
        raise _of_folder(error, folder) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def new_probe(folder: Path) -> Path:
    """Return a new hidden name in a folder. Others may probe it at the same time."""
    return folder / f"{PROBE}{uuid.uuid4().hex[:12]}"


def check_takes_files(folder: Path) -> None:
    """Create and remove a folder and a file in it. Raises the OSError of `folder`."""
    with _probe_folder(folder) as probe:
        try:
            (probe / "probe").touch()
        except OSError as error:
            raise _of_folder(error, folder) from error


def find_name_rules(folder: Path, stem: str, suffix: str = "") -> NameRules | None:
    """Return how `folder` takes files named `stem` + `suffix`; None if it takes them unchanged.

    The rules leave room for a number before the suffix. Called after an operation on that name has
    failed, to tell whether the name was the reason. Raises OSError for the folder if it takes no
    file at all, or no spelling of this name.
    """
    check_takes_files(folder)
    with _probe_folder(folder) as probe:

        def takes(name: str) -> bool:
            return _takes(probe, name)

        if takes(stem + suffix) and takes(f"{stem}{_LONGEST_NUMBER}{suffix}"):
            return None
        for rules in _possible_rules(takes, stem, suffix):
            if takes(rules.spell(stem, suffix)):
                return rules
    raise OSError(errno.EINVAL, "the folder takes no such name", str(folder / (stem + suffix)))


def spelled_path(folder: Path, stem: str, suffix: str) -> Path:
    """Return the path of `stem` + `suffix` in a folder as `folder` takes it. Raises OSError."""
    plain = folder / (stem + suffix)
    if os.path.lexists(plain) or is_plain(stem + suffix):
        return plain
    rules = find_name_rules(folder, stem, suffix)
    return plain if rules is None else folder / rules.spell(stem, suffix)


def _possible_rules(takes: Callable[[str], bool], stem: str, suffix: str) -> Iterator[NameRules]:
    """Yield rules by which the name may be taken, those that change less first."""
    longest = _longest_name(takes, len(os.fsencode(stem + _LONGEST_NUMBER + suffix)))
    yield NameRules(max_bytes=longest)
    refused = frozenset(c for c in unusual_characters(stem) if not takes(f"a{c}a"))
    yield (rules := NameRules(refused, longest))
    yield (rules := replace(rules, closed_end=True))
    yield (rules := replace(rules, prefix="_"))
    yield replace(rules, portable=True)


def _longest_name(takes: Callable[[str], bool], wanted: int) -> int | None:
    """Return the bytes of the longest name; None if `wanted` bytes are not too many."""
    if takes("x" * wanted):
        return None
    least, most = 1, wanted  # the one is taken, the other is not
    while most - least > 1:
        middle = (least + most) // 2
        if takes("x" * middle):
            least = middle
        else:
            most = middle
    return least


def _takes(folder: Path, name: str) -> bool:
    try:
        (folder / name).touch(exist_ok=False)
        (folder / name).unlink()
    except (OSError, ValueError):
        return False
    return True


@contextlib.contextmanager
def _probe_folder(folder: Path) -> Iterator[Path]:
    probe = new_probe(folder)
    try:
        probe.mkdir()
        # others may put a link in its place
        descriptor = os.open(probe, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _of_folder(error, folder) from error
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
        shutil.rmtree(probe, ignore_errors=True)


def _of_folder(error: OSError, folder: Path) -> OSError:
    """Return the error with the name of the folder instead of the probe's."""
    return OSError(error.errno, error.strerror, str(folder))


def sweep(folder: Path) -> None:
    """Remove stale probes and unfinished copies directly in a folder; I/O errors are ignored.

    Age is measured by the folder's own clock, which may be another host's.
    """
    with contextlib.suppress(OSError):
        clock = new_probe(folder)
        clock.touch()
        before = clock.lstat().st_mtime - _STALE_SECONDS
        clock.unlink()
        for pattern in _STALE_PATTERNS:
            for stale in folder.glob(pattern):
                with contextlib.suppress(OSError):
                    if stale.lstat().st_mtime < before:
                        _remove(stale)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()
