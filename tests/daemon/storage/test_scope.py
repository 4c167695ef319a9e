"""Scope of an error: the folders of an inbox, or one job, whatever the error number."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.config.settings import Inbox
from daemon.jobs.database import QueueUnavailable
from daemon.storage import scope
from daemon.storage.scope import StorageFailure, find_folder_error
from daemon.storage.volumes import VolumeMissing
from tests.system.disks import mounted
from tests.system.needs import missing

OWN = [
    errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EACCES, errno.EPERM, errno.ENOTDIR,
    errno.EISDIR, errno.EMLINK, errno.EROFS, errno.EIO, errno.ESTALE, errno.ELOOP,
]  # fmt: skip


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    folders = {role: tmp_path / role for role in ("path", "outbox", "archive", "failed")}
    for folder in folders.values():
        folder.mkdir()
    return Inbox(**folders)


@pytest.fixture(autouse=True)
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scope, "_proved", {})


def error(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))


@pytest.mark.parametrize("number", OWN, ids=errno.errorcode.get)
def test_where_folders_work_no_number_blames_them(inbox: Inbox, number: int) -> None:
    assert find_folder_error(inbox, error(number, inbox.outbox / "album")) is None
    assert {path.name for path in inbox.outbox.iterdir()} == {".i2vd"}


@pytest.mark.parametrize("number", OWN, ids=errno.errorcode.get)
@pytest.mark.parametrize("role", ["path", "outbox", "archive", "failed"])
def test_where_a_folder_fails_it_is_named(inbox: Inbox, number: int, role: str) -> None:
    folder: Path = getattr(inbox, role)
    shutil.rmtree(folder)
    found = find_folder_error(inbox, error(number, inbox.path / "cat.png"))
    assert found is not None
    assert found.filename == str(folder)


def test_only_the_folders_that_were_used_are_tried(inbox: Inbox) -> None:
    shutil.rmtree(inbox.outbox)
    refused = error(errno.EPERM, inbox.archive / "album")
    assert find_folder_error(inbox, refused, ("inbox", "archive", "failed")) is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_shortage_says_so_by_itself(inbox: Inbox, number: int) -> None:
    short = error(number, inbox.outbox / "album" / "cat.mp4")
    assert find_folder_error(inbox, short) is short


def test_a_shortage_of_a_disk_below_a_folder_is_not_the_folders(inbox: Inbox) -> None:
    album = inbox.outbox / "album"
    album.mkdir()
    with mounted(album, "-t", "tmpfs", "-o", "size=64k", "tmpfs"):
        assert find_folder_error(inbox, error(errno.ENOSPC, album / "new" / "cat.mp4")) is None


@pytest.mark.parametrize("kind", [QueueUnavailable, VolumeMissing, StorageFailure])
def test_what_is_no_jobs_by_its_kind_is_not_tried(inbox: Inbox, kind: type[OSError]) -> None:
    raised = kind("away")
    assert find_folder_error(inbox, raised) is raised
    assert list(inbox.outbox.iterdir()) == []


@pytest.fixture
def staging(inbox: Inbox) -> Iterator[Path]:
    folder = inbox.outbox / ".i2vd"
    folder.mkdir()
    if subprocess.run(["chattr", "+i", folder], check=False, capture_output=True).returncode:
        missing("no file can be made immutable here; run this test as root, on ext4")
    yield folder
    subprocess.run(["chattr", "-i", folder], check=True)


def test_staging_is_a_part_of_the_outbox(inbox: Inbox, staging: Path) -> None:
    found = find_folder_error(inbox, error(errno.EPERM, staging / "1-1"))
    assert found is not None
    assert found.filename == str(staging)


def test_a_thousand_errors_cost_one_trial(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Path] = []
    monkeypatch.setattr(scope, "write_probe", tried.append)
    for number in range(1000):
        assert find_folder_error(inbox, error(errno.EPERM, inbox.outbox / str(number))) is None
    assert len(tried) == 5, "inbox, outbox, its staging, archive, failed"
