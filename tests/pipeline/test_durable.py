"""Durability: a share that cannot sync takes files all the same, and a broken disk is an error."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.durable import fsync_dir, fsync_file


def failing(number: int) -> Callable[[int], None]:
    def fsync(_: int) -> None:
        raise OSError(number, os.strerror(number))

    return fsync


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EACCES])
def test_what_cannot_be_synced_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "fsync", failing(number))
    fsync_dir(tmp_path)
    with (tmp_path / "file").open("w") as file:
        fsync_file(file.fileno())


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE])
def test_what_may_be_lost_is_an_error_that_names_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "fsync", failing(number))
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        fsync_dir(tmp_path)
    assert caught.value.filename == str(tmp_path)


def test_descriptors_are_closed(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        fsync_dir(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
