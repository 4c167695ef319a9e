"""Content: compared and copied whole, and a hole of terabytes costs nothing."""

import errno
import os
from pathlib import Path

import pytest

from daemon.fs.content import has_same_content
from daemon.fs.move import copy_file

HUGE = 2**40


def sparse(file: Path, *pieces: tuple[int, bytes], size: int = HUGE) -> Path:
    """A file with a few bytes at some positions, and holes between them."""
    with file.open("wb") as opened:
        for at, piece in pieces:
            opened.seek(at)
            opened.write(piece)
        opened.truncate(size)
    return file


def used(file: Path) -> int:
    return file.stat().st_blocks * 512


def test_the_holes_of_a_huge_file_are_not_copied(tmp_path: Path) -> None:
    """Each mebibyte has a few bytes at most, so that no block may be copied whole."""
    pieces = [(0, b"JPEG"), (2**21 - 1, b"x"), (2**30, b"abc"), (HUGE - 9, b"the end.")]
    source = sparse(tmp_path / "a", *pieces)
    copy_file(source, tmp_path / "b")
    assert (tmp_path / "b").stat().st_size == HUGE
    assert used(tmp_path / "b") <= used(source) + 4096 * len(pieces) < 2**20
    assert has_same_content(source, tmp_path / "b")
    with (tmp_path / "b").open("rb") as copy:
        for at, piece in pieces:
            copy.seek(at)
            assert copy.read(len(piece)) == piece


@pytest.mark.parametrize("size", [0, 1, 4096, 2**20, 2**20 + 1, 3 * 2**20 - 7])
@pytest.mark.parametrize("holes", [True, False])
def test_a_copy_has_the_same_content_whatever_its_size(
    tmp_path: Path, size: int, holes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not holes:  # as on a file system that knows of none
        real = os.lseek

        def refusing(descriptor: int, at: int, how: int) -> int:
            if how in (os.SEEK_DATA, os.SEEK_HOLE):
                raise OSError(errno.EINVAL, "Invalid argument")
            return real(descriptor, at, how)

        monkeypatch.setattr(os, "lseek", refusing)
    source = tmp_path / "a"
    source.write_bytes(os.urandom(size))
    copy_file(source, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == source.read_bytes()
    assert has_same_content(source, tmp_path / "b")


@pytest.mark.parametrize("at", [0, 5, 2**21, HUGE - 1])
def test_a_byte_in_the_hole_of_the_other_file_is_a_difference(tmp_path: Path, at: int) -> None:
    one, other = sparse(tmp_path / "a"), sparse(tmp_path / "b", (at, b"x"))
    assert not has_same_content(one, other)
    assert not has_same_content(other, one)
    assert has_same_content(one, sparse(tmp_path / "c", (at, b"\0"))), "zeros are as a hole"


def test_a_link_a_pipe_and_another_size_are_no_same_content(tmp_path: Path) -> None:
    one = sparse(tmp_path / "a", size=10)
    (tmp_path / "link").symlink_to(one)
    os.mkfifo(tmp_path / "pipe")
    for other in ("link", "pipe", "."):
        assert not has_same_content(one, tmp_path / other)
        assert not has_same_content(tmp_path / other, one)
    assert not has_same_content(one, sparse(tmp_path / "b", size=11))


def test_what_has_no_room_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(bytes(100_000))
    real = os.fstatvfs

    def full(descriptor: int) -> os.statvfs_result:
        return os.statvfs_result((*real(descriptor)[:4], 3, *real(descriptor)[5:]))

    monkeypatch.setattr(os, "fstatvfs", full)
    monkeypatch.setattr(os, "pwrite", None)
    with pytest.raises(OSError, match="No space") as caught:
        copy_file(tmp_path / "a", tmp_path / "b")
    assert caught.value.filename == str(tmp_path / "b")
