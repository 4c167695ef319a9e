"""Text files as editors and shells of all systems leave them."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.text_file import NotRegular, Unreadable, decode, open_regular, read_text

LINES = st.lists(st.text(st.characters(exclude_characters="\r\n\0\ufeff", codec="utf-8")))


@given(LINES, st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
def test_byte_order_mark_and_line_breaks_make_no_difference(
    lines: list[str], line_break: str, mark: bool
) -> None:
    content = b"\xef\xbb\xbf" * mark + line_break.join(lines).encode()
    assert decode(content) == "\n".join(lines)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf16_is_named(encoding: str) -> None:
    with pytest.raises(Unreadable, match=r"UTF-16.*save it as UTF-8"):
        decode('prompt = "a cat"\n'.encode(encoding))


def test_another_encoding_is_told_with_its_line() -> None:
    with pytest.raises(Unreadable, match=r"line 2.*save it as UTF-8"):
        decode("a\ncafé".encode("latin-1"))


def make_folder(path: Path) -> None:
    path.mkdir()
    (path / "file").touch()


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        os.chdir(path.parent)
        bound.bind(path.name)


def open_files() -> list[str]:
    """Return the descriptors of this process."""
    return sorted(file.name for file in Path("/proc/self/fd").iterdir())


IRREGULAR: dict[str, Callable[[Path], None]] = {
    "folder": make_folder,
    "pipe": os.mkfifo,
    "socket": make_socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "link": lambda path: path.symlink_to("/etc/passwd"),
    "link to itself": lambda path: path.symlink_to(path),
    "link to nothing": lambda path: path.symlink_to("nothing"),
}
"""What a stranger can put in the place of a file."""


@pytest.mark.parametrize("kind", IRREGULAR)
def test_what_is_no_file_is_refused_and_not_left_open(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    IRREGULAR[kind](tmp_path / "file")
    before = open_files()
    for _ in range(3):
        with pytest.raises(OSError):
            open_regular(tmp_path / "file")
        with pytest.raises((Unreadable, FileNotFoundError)):
            read_text(tmp_path / "file", follow=False)
    assert open_files() == before


def test_an_operator_may_link_a_file_but_not_a_device(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "device").symlink_to("/dev/zero")
    assert read_text(tmp_path / "link", follow=True) == "text"
    with pytest.raises(NotRegular):
        open_regular(tmp_path / "device", follow=True)


def test_a_file_that_is_too_long_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(Unreadable, match="over 1 KiB"):
        read_text(tmp_path / "file", max_bytes=1024)
