"""Scanner: whatever is no picture has a reason, and one odd entry hides no other."""

import os
import socket
import unicodedata
from pathlib import Path

import pytest

from daemon.intake import scanner
from daemon.intake.scanner import scan


def reasons(root: Path, *, recursive: bool = True) -> dict[str, str]:
    return {path: skip.reason for path, skip in scan(root, recursive).skipped.items()}


def put(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("IMG_0001.DNG", "unsupported_format"),
        ("real.jxl", "unsupported_format"),
        ("film.MOV", "unsupported_format"),
        ("notes.md", "unknown_ending"),
        ("no-ending", "unknown_ending"),
        ("readme.txt", "unknown_ending"),
        ("cat.jpg.toml", "override_without_picture"),
        ("cat.jpg.TXT", "override_without_picture"),
        ("cat.jpg.part", "temporary_name"),
        ("cat (conflicted copy 2024-01-31).jpg", "conflict_copy"),
        (os.fsdecode(b"bad\xff.jpg"), "name_not_utf8"),
    ],
)
def test_what_is_no_picture_has_a_reason(tmp_path: Path, name: str, reason: str) -> None:
    put(tmp_path, name, "sub/" + name, "cat.png")
    assert reasons(tmp_path) == {name: reason, f"sub/{name}": reason}
    assert list(scan(tmp_path, recursive=True).pictures) == ["cat.png"]


def test_an_unsupported_format_is_named_with_what_to_do(tmp_path: Path) -> None:
    put(tmp_path, "a.DNG", "b.jxl")
    skipped = scan(tmp_path, recursive=True).skipped
    assert "raw file of a camera" in skipped["a.DNG"].detail
    assert "JPEG XL" in skipped["b.jxl"].detail


def test_what_is_no_regular_file_has_a_reason(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "a.jpg")
    (tmp_path / "folder").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "fifo.png")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "s.jpg"))
    assert set(reasons(tmp_path).values()) == {"not_regular_file"}
    assert len(reasons(tmp_path)) == 4


def test_a_link_that_takes_a_folders_place_during_the_scan_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "inbox/sub/a.jpg", "elsewhere/secret.jpg")
    root, really = tmp_path / "inbox", scanner._Listing.add_to

    def replaced(self: scanner._Listing, found: scanner.Scan) -> None:
        really(self, found)
        if not (root / "was").exists():
            (root / "sub").rename(root / "was")
            (root / "sub").symlink_to(tmp_path / "elsewhere")

    monkeypatch.setattr(scanner._Listing, "add_to", replaced)
    found = scanner.scan(root, recursive=True)
    assert found.pictures == {}
    assert found.skipped["sub"].reason == "unreadable"


def test_system_files_are_not_mentioned(tmp_path: Path) -> None:
    put(tmp_path, ".DS_Store", "Thumbs.db", "@eaDir/a.jpg", "@Recycle/b.jpg", ".i2vd-storage")
    found = scan(tmp_path, recursive=True)
    assert (found.skipped, found.pictures) == ({}, {})


def test_folders_that_are_not_looked_into_are_mentioned(tmp_path: Path) -> None:
    put(tmp_path, "sub/a.jpg")
    assert reasons(tmp_path, recursive=False) == {"sub": "not_watched"}


@pytest.mark.parametrize("control", [".aria2", ".st", ".lftp-pget-status"])
def test_a_download_with_a_control_file_beside_it_is_unfinished(
    tmp_path: Path, control: str
) -> None:
    put(tmp_path, "a.jpg", f"a.jpg{control}", "b.jpg")
    found = scan(tmp_path, recursive=True)
    assert list(found.pictures) == ["b.jpg"]
    assert found.skipped["a.jpg"].reason == "temporary_name"
    (tmp_path / f"a.jpg{control}").unlink()
    assert sorted(scan(tmp_path, recursive=True).pictures) == ["a.jpg", "b.jpg"]


def test_an_override_belongs_to_its_picture_in_any_unicode_form(tmp_path: Path) -> None:
    picture = unicodedata.normalize("NFD", "é.jpg")
    override = unicodedata.normalize("NFC", "é.jpg") + ".toml"
    put(tmp_path, picture, override)
    found = scan(tmp_path, recursive=True)
    assert found.skipped == {}
    assert found.overrides == {override: picture}


@pytest.mark.parametrize("fails", ["stat", "is_dir", "is_file"])
def test_an_entry_that_cannot_be_looked_at_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    put(tmp_path, "a.jpg", "b.jpg", "sub/c.jpg")

    class Entry:
        def __init__(self, entry: "os.DirEntry[str]") -> None:
            self.entry = entry

        def __getattr__(self, name: str) -> object:
            if name == fails and self.entry.name == "a.jpg":
                raise OSError(5, "Input/output error")
            return getattr(self.entry, name)

    class Listing:
        def __init__(self, path: Path) -> None:
            self.entries = os.listdir(path)  # noqa: PTH208
            self.real = real(path)

        def __enter__(self) -> list[Entry]:
            with self.real as entries:
                return [Entry(entry) for entry in entries]

        def __exit__(self, *_: object) -> None:
            pass

    real = os.scandir
    monkeypatch.setattr(os, "scandir", Listing)
    found = scan(tmp_path, recursive=True)
    assert sorted(found.pictures) == ["b.jpg", "sub/c.jpg"]
    assert found.skipped["a.jpg"].detail == (
        "cannot be read: input/output error; look at the disk or the share, and at `dmesg`"
    )


def test_empty_and_filled_folders_are_told_apart(tmp_path: Path) -> None:
    put(tmp_path, "a/b/c.jpg", "d/notes.md")
    (tmp_path / "e/f").mkdir(parents=True)
    found = scan(tmp_path, recursive=True)
    assert (found.filled, found.empty) == ({"a/b"}, {"e/f"})
