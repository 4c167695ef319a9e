"""Reading a file: the file's own faults, and those of the place."""

import contextlib
import errno
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.children.picture_file import open_picture
from pipeline.children.protocol import Rejected, Unavailable
from pipeline.image.errors import ImageRejected, SourceUnavailable
from pipeline.image.source import read

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
        answer = open_picture(path)
    assert isinstance(answer, Unavailable)
    assert os.strerror(number).lower() in answer.reason
    assert answer.reason.endswith("it will be tried again")


def test_a_process_without_descriptors_says_nothing_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"content")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        answer = open_picture(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert isinstance(answer, Unavailable)
    assert "too many open files" in answer.reason
    with opened(path) as descriptor:
        assert read(descriptor) == b"content"


def test_a_memory_file_of_the_kernel_that_cannot_be_read_is_of_the_place() -> None:
    """/proc/self/mem is a regular file that has no end and whose first page gives EIO."""
    with opened(Path("/proc/self/mem")) as descriptor, pytest.raises(SourceUnavailable) as caught:
        read(descriptor)
    assert str(caught.value).endswith("it will be tried again")


def test_a_file_is_read_whole_wherever_its_descriptor_stands(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content := os.urandom(100_000))
    with opened(path) as descriptor:
        for offset in (0, 7, 100_000, 200_000):
            os.lseek(descriptor, offset, os.SEEK_SET)
            assert read(descriptor) == content


def test_an_empty_file_may_still_be_being_copied(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with opened(tmp_path / "a.png") as descriptor, pytest.raises(ImageRejected) as caught:
        read(descriptor)
    assert caught.value.incomplete


def test_a_socket_is_no_regular_file(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "a.png"))
        assert open_picture(tmp_path / "a.png") == Rejected(reason="it is not a regular file")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = open_picture(path)
    assert isinstance(descriptor, int)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
