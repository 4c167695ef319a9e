"""Reading a file: the file's own faults, and those of the place."""

import errno
import os
import resource
from pathlib import Path

import pytest

from pipeline.image import source
from pipeline.image.errors import ImageRejected, SourceUnavailable

OF_THE_PLACE = (
    "EIO", "EACCES", "EPERM", "EMFILE", "ENFILE", "ENOMEM", "ETIMEDOUT", "EHOSTDOWN", "EBUSY",
    "ESTALE", "ENOTCONN", "EREMOTEIO", "ETXTBSY", "EAGAIN", "ECONNRESET", "ENODEV", "ENAMETOOLONG",
)  # fmt: skip


@pytest.mark.parametrize("name", OF_THE_PLACE)
@pytest.mark.parametrize("call", ["open", "fstat"])
def test_an_error_of_the_place_says_nothing_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: str
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"content")
    number = getattr(errno, name)

    def fails(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fails)
        with pytest.raises(SourceUnavailable) as caught:
            source.read(path)
    assert os.strerror(number).lower() in str(caught.value)
    assert str(caught.value).endswith("it will be tried again")


def test_a_process_without_descriptors_says_nothing_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"content")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(SourceUnavailable, match="too many open files"):
            source.read(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert source.read(path) == b"content"


def test_a_memory_file_of_the_kernel_that_cannot_be_read_is_of_the_place() -> None:
    """/proc/self/mem is a regular file whose first page gives EIO."""
    with pytest.raises((SourceUnavailable, ImageRejected)) as caught:
        source.read(Path("/proc/self/mem"))
    assert isinstance(caught.value, SourceUnavailable)
    assert "input/output error" in str(caught.value)


def test_an_empty_file_may_still_be_being_copied(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(ImageRejected) as caught:
        source.read(tmp_path / "a.png")
    assert caught.value.incomplete
