"""Junk: the names of systems and programs are known, a person's own are not."""

import pytest

from daemon.intake.junk import junk_kind

SYSTEM = [
    ".hidden.jpg", "._cat.jpg", ".DS_Store", "~$cat.jpg", "Thumbs.db", "desktop.ini", "Icon\r",
    "$RECYCLE.BIN", "RECYCLER", "Recycled", "System Volume Information", "found.000",
    "@GMT-2026.01.31-12.00.00", "__MACOSX", "Network Trash Folder", "lost+found", "LOST.DIR",
    "@eaDir", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot", "@Transcode",
    "~snapshot", ".snapshot", ".zfs", ".Trash-1000", ".recycle", ".stversions", ".dropbox.cache",
    ".tmp.driveupload", ".trashed-1700000000-cat.jpg", ".cat.jpg.Xy12Za", ".nfs0001", "trashbox",
]  # fmt: skip
TEMPORARY = [
    "cat.jpg.part", "cat.jpg.tmp", "cat.crdownload", "Unconfirmed 1234.crdownload", "cat.jpg~",
    "cat.jpg.filepart", "cat.jpg.a1b2c3.partial", "cat.jpg.aria2", "cat.jpg.!qB", "cat.jpg.!sync",
    "~syncthing~cat.jpg.tmp", "cat.jpg.~tmp", "cat.jpg.crswap", "cat.jpg.sb-1a2b3c4d-Xy12Za",
    "psAB12.tmp", "#cat.jpg#", "cat.jpg.lftp-pget-status", "cat.jpg.ffs_tmp",
]  # fmt: skip
CONFLICTS = [
    "cat.sync-conflict-20240101-010101-ABC1234.jpg",
    "cat (Anna's conflicted copy 2024-01-31).jpg",
    "cat (conflicted copy 2024-01-31 123456).jpg",
    "cat (DESKTOP-UMS014A's conflicted copy 2019-04-24).jpg",
    "chat (Copie en conflit de Anna 2024-01-31).jpg",
    "katze (In Konflikt stehende Kopie von Anna 2024-01-31).jpg",
    "猫 (安娜 的冲突副本 2024-01-31).jpg",
    "cat_conflict-20240131-123456.jpg",
    "cat (SFConflict anna@example.com 2024-01-31-12-34-56).jpg",
    "cat_DiskStation_Jan-31-123456-2024_Conflict.jpg",
    "cat-DESKTOP-UMS014A.jpg",
    "cat-LAPTOP-1A2B3C4D-2.jpg",
]
OWN = [
    "cat.jpg", "CAT.JPEG", "my cat (2).png", "a.b.HEIC", "-x.webp", "cat (1).jpg", "#1 cat.jpg",
    "@home.jpg", "Recycling.jpg", "recycle bin.jpg", "Git (Conflict resolution chapter).png",
    "conflict.jpg", "tmp.jpg", "part.jpg", "found.jpg", "my-desktop-2024.jpg", "download.jpg",
    "snapshot", "trash", "recycle", "Temporary", "Katze im Konflikt.jpg", "冲突.jpg",
    "win-win-situation.jpg", "at $20.jpg",
]  # fmt: skip


@pytest.mark.parametrize("name", SYSTEM)
def test_system_names_are_known(name: str) -> None:
    assert junk_kind(name) == "system"


@pytest.mark.parametrize("name", TEMPORARY)
def test_temporary_names_are_known(name: str) -> None:
    assert junk_kind(name) == "temporary"


@pytest.mark.parametrize("name", CONFLICTS)
def test_conflict_copies_are_known(name: str) -> None:
    assert junk_kind(name) == "conflict_copy"


@pytest.mark.parametrize("name", OWN)
def test_names_of_a_person_are_no_junk(name: str) -> None:
    assert junk_kind(name) is None
