"""Volume markers: a folder differs from what shows in its place, on one host or several."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from daemon.cli.check import check
from daemon.config.settings import Inbox, Settings
from daemon.jobs.database import Database
from daemon.jobs.queries import JobQueries
from daemon.jobs.store import JobStore
from daemon.publish.archive import Archive
from daemon.storage.volumes import MARKER, ROLES, VolumeMarkers, VolumeMissing
from tests.system.disks import mounted
from tests.system.needs import needs


def host(root: Path, **changes: str) -> Settings:
    """A host on which the folders lie below `root`."""
    folders = {role: root / role for role in ROLES}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    return Settings(inbox=(Inbox.model_validate({**folders, **changes}),))


def empty(folder: Path) -> None:
    """Show an empty folder, as when its share is not mounted."""
    folder.rename(folder.with_name("away"))
    folder.mkdir()


@pytest.fixture
def other(database: Database, url: str) -> Iterator[Database]:
    opened = Database(url)
    yield opened
    opened.close()


@pytest.mark.parametrize("role", ROLES)
def test_an_empty_folder_in_the_place_of_a_share_is_not_taken_for_it(
    tmp_path: Path, database: Database, role: str
) -> None:
    settings = host(tmp_path)
    inbox, folder = settings.inbox[0], tmp_path / role
    storage = VolumeMarkers(settings, database)
    assert storage.problem(inbox) is None
    assert not (folder / MARKER).exists()
    storage.check(inbox)
    assert storage.problem(inbox) is None
    empty(folder)
    assert "no marker" in str(storage.problem(inbox))
    for looking in (storage, VolumeMarkers(settings, database)):  # as it runs, and after a restart
        with pytest.raises(VolumeMissing, match="no marker; is the share of inbox inbox mounted"):
            looking.check(inbox)
    assert not (folder / MARKER).exists()
    folder.rmdir()
    with pytest.raises(VolumeMissing, match="not there"):
        storage.check(inbox)
    folder.with_name("away").rename(folder)
    storage.check(inbox)


def test_hosts_may_have_it_at_other_places_but_not_another_one(
    tmp_path: Path, database: Database, other: Database
) -> None:
    here = host(tmp_path / "here")
    VolumeMarkers(here, database).check(here.inbox[0])
    (tmp_path / "there").symlink_to(tmp_path / "here")
    there = host(tmp_path / "there")
    VolumeMarkers(there, other).check(there.inbox[0])
    wrong = host(tmp_path / "wrong")
    with pytest.raises(VolumeMissing, match="no marker"):
        VolumeMarkers(wrong, other).check(wrong.inbox[0])
    shutil.copy(tmp_path / "here/outbox" / MARKER, tmp_path / "wrong/path")
    with pytest.raises(VolumeMissing, match="the marker of another storage"):
        VolumeMarkers(wrong, other).check(wrong.inbox[0])


def test_what_the_message_says_is_done_to_make_a_folder_the_right_one(
    tmp_path: Path, database: Database
) -> None:
    settings = host(tmp_path)
    storage = VolumeMarkers(settings, database)
    storage.check(settings.inbox[0])
    empty(tmp_path / "outbox")
    with pytest.raises(VolumeMissing) as caught:
        storage.check(settings.inbox[0])
    marker, _, file = str(caught.value).partition("echo ")[2].partition(" > ")
    Path(file).write_text(f"{marker}\n")
    storage.check(settings.inbox[0])


def test_the_check_names_a_folder_that_is_not_the_queues(tmp_path: Path) -> None:
    settings = host(tmp_path).model_copy(update={"state": tmp_path})
    database = Database(settings.queue_url)
    VolumeMarkers(settings, database).check(settings.inbox[0])
    database.close()
    empty(tmp_path / "outbox")
    wrong = [found for found in check(settings) if found.what == "inbox: storage"]
    assert [found.verdict for found in wrong] == ["mistake"]
    assert f"outbox {tmp_path}/outbox: no marker" in wrong[0].detail


def test_a_new_queue_takes_the_markers_that_are_there(tmp_path: Path) -> None:
    settings = host(tmp_path)
    lost = Database(f"sqlite:///{tmp_path}/queue.sqlite")
    VolumeMarkers(settings, lost).check(settings.inbox[0])
    lost.close()
    for file in tmp_path.glob("queue.sqlite*"):
        file.unlink()
    fresh = Database(f"sqlite:///{tmp_path}/queue.sqlite")
    before = (tmp_path / "path" / MARKER).read_text()
    VolumeMarkers(settings, fresh).check(settings.inbox[0])
    fresh.close()
    assert (tmp_path / "path" / MARKER).read_text() == before


def test_an_inbox_that_cannot_be_written_is_told_by_its_mount(
    tmp_path: Path, database: Database
) -> None:
    with mounted(tmp_path / "path", "-t", "tmpfs", "-o", "ro", "tmpfs"):
        settings = host(tmp_path, on_success="keep")
        storage = VolumeMarkers(settings, database)
        storage.check(settings.inbox[0])
    with pytest.raises(VolumeMissing, match="something else than before"):
        storage.check(settings.inbox[0])


def test_no_picture_is_gone_while_its_share_is_away(
    tmp_path: Path, database: Database, store: JobStore, queries: JobQueries,
    enqueue: Callable[..., list[int]],
) -> None:  # fmt: skip
    settings = host(tmp_path)
    storage = VolumeMarkers(settings, database)
    storage.check(settings.inbox[0])
    enqueue()
    job = store.claim("me", 30)
    assert job
    store.fail(job, "broke")
    empty(tmp_path / "path")
    archive = Archive(database, store, queries, settings, storage)
    archive.archive_job(job)
    assert archive.last_error
    assert "is the share of inbox inbox mounted" in archive.last_error
    (left,) = queries.pending_archival()
    assert left.picture_location == "inbox"


# --- a marker that is deleted


@pytest.fixture
def seen(tmp_path: Path, database: Database) -> tuple[Inbox, VolumeMarkers]:
    """An inbox whose markers this daemon has seen."""
    settings = host(tmp_path)
    markers = VolumeMarkers(settings, database)
    markers.check(settings.inbox[0])
    return settings.inbox[0], markers


Seen = tuple[Inbox, VolumeMarkers]


@pytest.mark.parametrize("role", ROLES)
def test_a_marker_deleted_from_the_very_same_folder_is_written_again(
    tmp_path: Path, seen: Seen, role: str
) -> None:
    inbox, markers = seen
    before = (tmp_path / role / MARKER).read_text()
    (tmp_path / role / MARKER).unlink()
    with structlog.testing.capture_logs() as logged:
        markers.check(inbox)
        markers.check(inbox)
    assert [line["event"] for line in logged] == ["marker written again"]
    assert (tmp_path / role / MARKER).read_text() == before


def test_rsync_with_delete_stops_nothing(tmp_path: Path, seen: Seen) -> None:
    needs("rsync", package="rsync")
    inbox, markers = seen
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "cat.jpg").touch()
    subprocess.run(["rsync", "-a", "--delete", f"{tmp_path}/source/", f"{inbox.path}/"], check=True)
    assert not (inbox.path / MARKER).exists()
    markers.check(inbox)
    assert sorted(file.name for file in inbox.path.iterdir()) == [MARKER, "cat.jpg"]


def test_a_marker_is_not_written_into_another_folder(tmp_path: Path, seen: Seen) -> None:
    inbox, markers = seen
    empty(tmp_path / "path")
    with pytest.raises(VolumeMissing, match="no marker"):
        markers.check(inbox)
    assert not (tmp_path / "path" / MARKER).exists()


def test_a_marker_is_not_written_below_a_mount_that_is_gone(
    tmp_path: Path, database: Database
) -> None:
    (tmp_path / "path").mkdir()
    with mounted(tmp_path / "path", "-t", "tmpfs", "tmpfs"):
        settings = host(tmp_path)
        markers = VolumeMarkers(settings, database)
        markers.check(settings.inbox[0])
    with pytest.raises(VolumeMissing, match="no marker"):
        markers.check(settings.inbox[0])
    with (
        mounted(tmp_path / "path", "-t", "tmpfs", "tmpfs"),  # another, in its place
        pytest.raises(VolumeMissing, match="no marker"),
    ):
        markers.check(settings.inbox[0])


def test_a_marker_that_was_never_seen_is_not_written_again(
    tmp_path: Path, seen: Seen, database: Database
) -> None:
    inbox, _ = seen
    (tmp_path / "path" / MARKER).unlink()
    restarted = VolumeMarkers(Settings(inbox=(inbox,)), database)
    with pytest.raises(VolumeMissing, match="no marker"):
        restarted.check(inbox)


@pytest.mark.parametrize(
    "put",
    [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("elsewhere"), Path.touch],
    ids=["folder", "pipe", "link", "empty"],
)
def test_something_else_in_the_place_of_a_marker_leaks_no_descriptor(
    seen: Seen, put: Callable[[Path], None]
) -> None:
    inbox, markers = seen
    (inbox.path / MARKER).unlink()
    put(inbox.path / MARKER)
    before = len([*Path("/proc/self/fd").iterdir()])
    for _ in range(20):
        with pytest.raises(VolumeMissing):
            markers.check(inbox)
    assert len([*Path("/proc/self/fd").iterdir()]) == before


def test_a_read_only_inbox_is_known_by_its_mount_when_its_inode_changes(
    tmp_path: Path, database: Database
) -> None:
    (tmp_path / "path").mkdir()
    options = ("-t", "tmpfs", "-o", "ro", "photos")
    with mounted(tmp_path / "path", *options):
        settings = host(tmp_path, on_success="keep")
        markers = VolumeMarkers(settings, database)
        markers.check(settings.inbox[0])
    with mounted(tmp_path / "path", *options):
        markers.check(settings.inbox[0])
