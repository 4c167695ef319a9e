"""Junk: names that systems and programs give to files that are no picture of a person's.

Recycle bins, snapshots, thumbnails, unfinished copies, and conflict copies. Names of folders are
exact, so that no folder of a person is meant. Each scan asks about every name.
"""

import re
from typing import Literal

from rules.names import nfc

Junk = Literal["system", "temporary", "conflict_copy"]

_SYSTEM_PREFIXES = (
    # Hidden files. macOS (.DS_Store, ._*, .Trashes, .TemporaryItems, .fseventsd), Linux
    # (.Trash-1000, .nfs*, .fuse_hidden*), Samba's vfs_recycle (.recycle), NetApp and Isilon
    # (.snapshot), ZFS (.zfs), QNAP (.@__thumb), Dropbox (.dropbox.cache), Nextcloud (.~*), Google
    # Drive (.tmp.driveupload), Syncthing (.stfolder, .stversions), Resilio (.sync), MEGA (.debris),
    # rsync's temporaries, ProFTPD (.in.*), Android (.trashed-*, .pending-*), i2vd's own.
    ".",
    "~$",  # owner files of Microsoft Office
    "@gmt-2",  # previous versions of a Samba share (vfs_shadow_copy2): @GMT-2026.01.31-12.00.00
)
_SYSTEM_NAMES = frozenset((
    # Windows: recycle bins of NT, XP and 9x; Explorer.
    "$recycle.bin", "recycler", "recycled", "system volume information",
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini",
    # macOS: resource forks in archives, folder icons; AFP servers (netatalk).
    "__macosx", "icon\r", "network trash folder", "temporary items", "thevolumesettingsfolder",
    # fsck of Linux, and of Android's cards.
    "lost+found", "lost.dir",
    # Synology: thumbnails, recycle bin, snapshots, temporary folder.
    "@eadir", "#recycle", "#snapshot", "@tmp", "@synoresource", "@synoeastream",
    # QNAP: recycle bin, snapshots, transcoded copies, downloads.
    "@recycle", "@recently-snapshot", "@transcode", "@downloadstationtempfiles",
    # NetApp: snapshots over SMB. Buffalo: recycle bin.
    "~snapshot", "trashbox",
    # State of GoodSync and FreeFileSync.
    "_gsdata_", "sync.ffs_db",
))  # fmt: skip
_SYSTEM_PATTERN = re.compile(r"found\.\d{3}$")  # chkdsk of Windows

_TEMPORARY_PREFIXES = ("~syncthing~",)
_TEMPORARY_SUFFIXES = (
    # Browsers: Firefox, Chrome and Edge, Safari, Opera, Internet Explorer; Chrome's saved files.
    ".part", ".crdownload", ".download", ".opdownload", ".partial", ".crswap",
    # Download programs: aria2, lftp, axel, uTorrent, qBittorrent, BitComet, FlashGet.
    ".aria2", ".lftp-pget-status", ".st", ".!ut", ".!qb", ".bc!", ".jc!",
    # Copying and synchronising: FileZilla and WinSCP, rsync, rclone (.partial), Nextcloud, Resilio,
    # FreeFileSync.
    ".filepart", ".~tmp~", ".~tmp", ".!sync", ".bts", ".ffs_tmp",
    # Editors: Photoshop, Office, OneDrive and Syncthing (.tmp), vim, emacs.
    ".tmp", ".temp", ".swp", ".swo", ".lock", "~",
)  # fmt: skip
_TEMPORARY_PATTERN = re.compile(
    r"[^/]*\.sb-[0-9a-f]{8}-\w{6}$"  # safe saving of macOS's programs
    r"|#.*#$"  # emacs
)

UNFINISHED_SUFFIXES = (".aria2", ".lftp-pget-status", ".st")
"""`cat.jpg` is unfinished while `cat.jpg.aria2` is beside it: aria2, lftp, axel."""

_CONFLICT_HINTS = (
    "confl", "konflikt", "冲突", "衝突", "競合", "-desktop-", "-laptop-", "-win-",
)  # fmt: skip
"""One of these is in every name that `_CONFLICT_COPY` finds; the search takes longer."""
_CONFLICT_COPY = re.compile(
    r"\.sync-conflict-\d{8}-\d{6}"  # Syncthing
    r"|\([^()]*conflict(?:ed|ing) copy[^()]*\)"  # Dropbox, Nextcloud, ownCloud, Box, Maestral
    r"|\((?:copie en conflit|in konflikt stehende kopie|copia en conflicto|copia in conflitto"
    r"|c[oó]pia em conflito|conflicterende kopie)[^()]*\)"  # Dropbox
    r"|\([^()]*(?:的冲突副本|的衝突複本|競合コピー)[^()]*\)"  # Dropbox
    r"|_conflict-(?:\w+-)?\d{8}-\d{6}"  # older Nextcloud and ownCloud
    r"|\(sfconflict [^()]*\)"  # Seafile
    r"|_[a-z]{3}-\d\d-\d{6}-\d{4}_(?:case)?conflict\."  # Synology Drive
    r"|\[conflicted(?:-\d+)?\]"  # pCloud
    r"|\.conflict\.[a-z0-9]+$"  # Resilio
    # OneDrive:
    r"|-(?:desktop-[a-z0-9]{7}|laptop-[a-z0-9]{8}|win-[a-z0-9]{11})(?:-\d+)?\.[a-z0-9]+$"
)
"""Second versions that a synchronising program made, in lower case. OneDrive appends the name of a
computer: those that Windows chose are recognised, others look like a person's own name."""


def junk_kind(name: str) -> Junk | None:
    """Return what kind of junk a file or folder of this name is; None if it is none."""
    lower = nfc(name).lower()
    if lower.startswith(_SYSTEM_PREFIXES) or lower in _SYSTEM_NAMES:
        return "system"
    if _SYSTEM_PATTERN.match(lower):
        return "system"
    if lower.startswith(_TEMPORARY_PREFIXES) or lower.endswith(_TEMPORARY_SUFFIXES):
        return "temporary"
    if _TEMPORARY_PATTERN.match(lower):
        return "temporary"
    if any(hint in lower for hint in _CONFLICT_HINTS) and _CONFLICT_COPY.search(lower):
        return "conflict_copy"
    return None


def is_ignored(name: str) -> bool:
    """Return True if a file or folder of this name is skipped."""
    return junk_kind(name) is not None
