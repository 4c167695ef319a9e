"""Empty folders: those that a drop brought go, those for dropping into stay."""

import os
import time
from pathlib import Path

import pytest

from daemon.intake.empty_folders import EmptyFolders
from daemon.intake.scanner import scan


class Shelf:
    """An inbox that is scanned, with a clock of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 0.0
        self.folders = EmptyFolders("inbox", root)

    def look(self, later: float = 0.0, named: tuple[str, ...] = ()) -> list[str]:
        """Scan after some time, in which nothing changes; return all folders."""
        self.now += later
        for folder in (path for path in self.root.rglob("*") if path.is_dir()):
            changed = folder.stat().st_mtime - later
            os.utime(folder, (changed, changed))
        self.folders.update(scan(self.root, recursive=True), named, self.now)
        found = (path for path in self.root.rglob("*") if path.is_dir())
        return sorted(str(path.relative_to(self.root)) for path in found)

    def drop(self, path: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
        return file


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    made = Shelf(tmp_path)
    made.look()
    return made


def test_a_folder_that_a_drop_brought_is_removed_a_minute_after_its_last_picture(
    shelf: Shelf,
) -> None:
    picture = shelf.drop("album/day 1/cat.jpg")
    shelf.look()
    picture.unlink()
    assert shelf.look() == ["album", "album/day 1"]
    assert shelf.look(59) == ["album", "album/day 1"]
    assert shelf.look(2) == ["album"]
    shelf.look()
    assert shelf.look(61) == []


def test_a_place_for_drops_stays(shelf: Shelf) -> None:
    (shelf.root / "portraits").mkdir()
    shelf.look()
    shelf.look(61)
    picture = shelf.drop("portraits/cat.jpg")
    shelf.look()
    picture.unlink()
    shelf.look()
    assert shelf.look(1000) == ["portraits"]


def test_what_was_empty_at_the_start_stays(tmp_path: Path) -> None:
    (tmp_path / "portraits").mkdir()
    shelf = Shelf(tmp_path)
    shelf.look()
    picture = shelf.drop("portraits/cat.jpg")
    shelf.look()
    picture.unlink()
    shelf.look()
    assert shelf.look(1000) == ["portraits"]


def test_a_folder_that_a_rule_names_stays(shelf: Shelf) -> None:
    picture = shelf.drop("portraits/album/cat.jpg")
    shelf.look(named=("portraits",))
    picture.unlink()
    shelf.look(named=("portraits",))
    assert shelf.look(61, named=("portraits",)) == ["portraits"]
    shelf.look(named=("portraits",))
    assert shelf.look(1000, named=("portraits",)) == ["portraits"]


@pytest.mark.parametrize("other", [".DS_Store", "notes.md", "cat.jpg.part"])
def test_a_folder_with_anything_in_it_stays(shelf: Shelf, other: str) -> None:
    picture = shelf.drop("album/cat.jpg")
    shelf.drop(f"album/{other}")
    shelf.look()
    picture.unlink()
    shelf.look()
    assert shelf.look(1000) == ["album"]


def test_a_folder_into_which_a_copy_begins_stays(shelf: Shelf) -> None:
    picture = shelf.drop("album/cat.jpg")
    shelf.look()
    picture.unlink()
    shelf.look()
    found = scan(shelf.root, recursive=True)
    shelf.drop("album/dog.jpg")  # after the scan
    shelf.folders.update(found, (), shelf.now + 61)
    assert (shelf.root / "album/dog.jpg").exists()


def test_a_folder_that_has_just_changed_stays(shelf: Shelf) -> None:
    picture = shelf.drop("album/cat.jpg")
    shelf.look()
    picture.unlink()
    shelf.look()
    os.utime(shelf.root / "album", (time.time(), time.time()))
    shelf.folders.update(scan(shelf.root, recursive=True), (), shelf.now + 61)
    assert (shelf.root / "album").exists()


def test_a_link_in_the_place_of_a_folder_is_not_followed(shelf: Shelf, tmp_path: Path) -> None:
    picture = shelf.drop("album/day/cat.jpg")
    shelf.look()
    picture.unlink()
    shelf.look()
    found = scan(shelf.root, recursive=True)
    elsewhere = tmp_path.with_name(f"{tmp_path.name}-elsewhere")
    (elsewhere / "day").mkdir(parents=True)
    os.utime(elsewhere / "day", (0, 0))
    (shelf.root / "album").rename(elsewhere / "moved")
    (shelf.root / "album").symlink_to(elsewhere)
    shelf.folders.update(found, (), shelf.now + 61)
    assert (elsewhere / "day").exists()
