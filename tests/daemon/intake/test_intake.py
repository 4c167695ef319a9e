"""Intake with the real picture child: what becomes a job, waits or is rejected."""

import errno
import io
import json
import os
import random
import shutil
import threading
import time
import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from PIL import Image

from daemon.config.settings import Inbox, Settings
from daemon.dispatch import control
from daemon.estimate.duration import DurationEstimator
from daemon.estimate.memory import MemoryEstimator
from daemon.intake.intake import Intake, checker
from daemon.intake.scanner import scan
from daemon.intake.watcher import Answer, RetryLater, RetryWithBackoff
from daemon.jobs.database import Database
from daemon.jobs.job import Job
from daemon.jobs.queries import JobQueries
from daemon.jobs.schema import jobs
from daemon.jobs.store import JobStore
from daemon.publish.archive import Archive
from daemon.publish.posters import Posters
from daemon.services import Services
from daemon.storage.folder_threads import FolderThreads
from daemon.storage.health import StorageHealth
from daemon.storage.volumes import VolumeMarkers
from daemon.telemetry.metrics import Metrics
from pipeline.children.image_pool import ImagePool
from pipeline.children.protocol import Inspected, Rejected, Unavailable
from pipeline.request.presets import MICRO_FAMILY
from rules.live import LiveRules
from rules.parse import read_sidecar

RULE = '[make]\nprompt = "camera panning right, {stem}"\npreset = "draft"\n'


class Desk:
    """An inbox with all that intake needs."""

    def __init__(
        self, root: Path, database: Database, store: JobStore, queries: JobQueries
    ) -> None:
        folders = {role: root / role for role in ("path", "outbox", "rules", "archive", "failed")}
        for folder in folders.values():
            folder.mkdir()
        self.inbox = Inbox(unreadable_timeout=7, **folders)
        self.settings = Settings(inbox=(self.inbox,), state=root)
        self.database, self.store, self.queries = database, store, queries
        self.rules = LiveRules(self.inbox.rules, checker(MICRO_FAMILY))
        self.decoder = ImagePool(print, print)
        storage, threads = (
            VolumeMarkers(self.settings, database),
            FolderThreads(self.settings.inbox),
        )
        self.services = Services(
            settings=self.settings,
            owner="me",
            database=database,
            family=MICRO_FAMILY,
            store=store,
            queries=queries,
            durations=DurationEstimator(),
            memory=MemoryEstimator(database, "micro"),
            archive=Archive(database, store, queries, self.settings, storage),
            storage_health=StorageHealth(self.settings, storage, lambda: None, threads),
            markers=storage,
            image_pool=self.decoder,
            metrics=Metrics(),
            posters=Posters(),
            rules={"inbox": self.rules},
            folder_threads=threads,
            enqueue_locks={"inbox": threading.Lock()},
        )
        self.woken = 0
        self.intake = Intake(self.services, self._wake)
        self.rule("90-default", RULE)

    def _wake(self) -> None:
        self.woken += 1

    def rule(self, name: str, text: str) -> None:
        (self.inbox.rules / f"{name}.toml").write_text(text)
        assert self.rules.reload(0.0).ok

    def drop(self, path: str = "cat.jpg", content: bytes | None = None) -> None:
        file = self.inbox.path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if content is not None else picture())

    async def news(self) -> list[str]:
        return await self.intake.without_job(
            self.inbox, scan(self.inbox.path, recursive=True).pictures
        )

    async def take(self, path: str = "cat.jpg") -> Answer:
        seen = scan(self.inbox.path, recursive=True).pictures[path]
        return await self.intake.handle(self.inbox, path, seen)

    async def waits(self, path: str = "cat.jpg") -> tuple[float | None, str]:
        """When a picture is looked at again, and why."""
        answer = await self.take(path)
        assert isinstance(answer, RetryLater)
        assert answer.skip is not None
        return answer.seconds, answer.skip.reason

    def job(self, number: int = 1) -> Job:
        job = self.queries.job(number)
        assert job is not None
        return job

    def claim(self) -> Job:
        job = self.store.claim("me", 30)
        assert job is not None
        return job


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))


def picture(width: int = 40, height: int = 30) -> bytes:
    image = Image.frombytes("RGB", (width, height), random.Random(1).randbytes(width * height * 3))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
async def desk(
    tmp_path: Path, database: Database, store: JobStore, queries: JobQueries
) -> AsyncIterator[Desk]:
    made = Desk(tmp_path, database, store, queries)
    yield made
    await made.decoder.close()


async def test_a_whole_picture_becomes_a_job_with_its_spec_resolved(desk: Desk) -> None:
    desk.drop("pets/my_cat.jpg")
    assert await desk.take("pets/my_cat.jpg") is None
    job = desk.job()
    assert job.spec is not None
    assert (job.state, job.rule, job.clip_name) == ("queued", "90-default", "pets/my_cat")
    assert job.spec.prompt == "camera panning right, my cat"
    assert (job.spec.width, job.spec.frames, job.spec.steps) == (48, 8, 10)
    assert job.source == {"size": len(picture()), "width": 40, "height": 30, "caption": ""}
    assert desk.woken == 1


async def test_the_same_drop_is_not_looked_into_twice(desk: Desk) -> None:
    desk.drop()
    assert await desk.news() == ["cat.jpg"]
    await desk.take()
    assert await desk.news() == []
    assert await desk.take() is None  # as of a look that began before
    assert desk.woken == 1
    assert desk.queries.job(2) is None


@pytest.mark.parametrize("content", [None, b"no picture"])
async def test_what_another_host_moved_while_it_was_looked_at_is_no_new_drop(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    desk.drop(content=content)
    await desk.take()  # what is no picture is given time once
    seen, glance = (
        scan(desk.inbox.path, recursive=True).pictures["cat.jpg"],
        desk.decoder.inspect_quickly,
    )

    async def slowly(
        path: Path, within: Path | None = None, *, lenient: bool = False
    ) -> Inspected | Rejected | Unavailable | None:
        found = await glance(path, within, lenient=lenient)
        monkeypatch.undo()
        if content is None:
            desk.services.operator.cancel(1)
            desk.services.archive.archive_job(desk.job())
        else:
            other = Intake(desk.services, lambda: None)
            for _ in range(2):
                await other.handle(desk.inbox, "cat.jpg", seen)
        assert names(desk.inbox.path) == []
        return found

    monkeypatch.setattr(desk.decoder, "inspect_quickly", slowly)
    assert await desk.intake.handle(desk.inbox, "cat.jpg", seen) is None
    assert desk.queries.job(2) is None
    assert names(desk.inbox.failed) == ["cat.jpg", "cat.jpg.reason.json"]
    (desk.inbox.failed / "cat.jpg").rename(desk.inbox.path / "cat.jpg")
    if await desk.take():
        await desk.take()
    assert desk.job(2).drop == 2, "the same file, dropped again"


async def test_a_later_change_of_rules_does_not_touch_a_queued_job(desk: Desk) -> None:
    desk.drop()
    await desk.take()
    before = desk.job()
    desk.rule("10-other", '[make]\nprompt = "zoom"\n')
    assert desk.job().spec == before.spec
    assert before.rules_digest != desk.rules.rules.digest


async def test_what_no_rule_takes_waits_for_other_rules(desk: Desk) -> None:
    desk.rule("90-default", '[match]\nnames = ["dog*"]\n' + RULE)
    desk.drop()
    assert await desk.waits() == (None, "no_rule")
    assert desk.queries.job(1) is None


async def test_what_cannot_be_decoded_gets_time_and_is_then_rejected(desk: Desk) -> None:
    desk.drop(content=picture()[:-200])
    assert await desk.waits() == (7.0, "incomplete")
    assert desk.queries.job(1) is None
    assert await desk.take() is None
    job = desk.job()
    assert job.state == "failed"
    assert not (desk.inbox.path / "cat.jpg").exists()
    assert (desk.inbox.failed / "cat.jpg").read_bytes() == picture()[:-200]
    reasons = json.loads((desk.inbox.failed / "cat.jpg.reason.json").read_text())
    assert reasons[0]["reason"] == job.error
    assert reasons[0]["again"] == "i2vd retry 1"


async def test_a_copy_that_paused_is_taken_when_it_is_whole(desk: Desk) -> None:
    desk.drop(content=picture()[:-200])
    assert await desk.waits() == (7.0, "incomplete")
    desk.drop()
    assert await desk.take() is None
    assert desk.job().state == "queued"


async def test_a_sidecar_overrides_the_rule_for_its_picture(desk: Desk) -> None:
    (desk.inbox.path / "cat.jpg.toml").write_text('prompt = "zooming in"\nframes = 16\n')
    desk.drop()
    await desk.take()
    spec = desk.job().spec
    assert spec is not None
    assert (spec.prompt, spec.frames, spec.preset) == ("zooming in", 16, "draft")


async def test_a_wrong_override_rejects_the_picture_with_every_mistake(desk: Desk) -> None:
    (desk.inbox.path / "cat.jpg.toml").write_text("frames = 99\nstepz = 3\n")
    desk.drop()
    await desk.take()
    error = desk.job().error
    assert error is not None
    assert "frames" in error
    assert "steps" in error
    assert names(desk.inbox.failed) == [
        "cat.jpg", "cat.jpg.reason.json", "cat.jpg.toml",
    ]  # fmt: skip


async def test_variants_share_a_picture_and_differ_in_seed(desk: Desk) -> None:
    desk.rule("90-default", RULE + "variants = 3\nseed = 5\n")
    desk.drop()
    await desk.take()
    specs = [desk.job(number).spec for number in (1, 2, 3)]
    assert [spec.seed for spec in specs if spec] == [5, 6, 7]


# --- archival of the picture


async def finish(desk: Desk, *, well: bool = True) -> Job:
    job = desk.claim()
    if well:
        desk.store.begin_publication(job, {})
        desk.store.done(job, {})
    else:
        desk.store.fail(job, "broke")
    services = desk.services
    Archive(
        services.database, services.store, services.queries, desk.settings, services.markers
    ).archive_job(job)
    return desk.job(job.id)


async def test_a_done_picture_is_archived_with_its_sidecar_and_subfolder(desk: Desk) -> None:
    (desk.inbox.path / "pets").mkdir()
    (desk.inbox.path / "pets/cat.jpg.txt").write_text("zooming in")
    desk.drop("pets/cat.jpg")
    await desk.take("pets/cat.jpg")
    job = await finish(desk)
    assert job.picture_location == "archive"
    assert (desk.inbox.archive / "pets/cat.jpg").exists()
    assert (desk.inbox.archive / "pets/cat.jpg.txt").exists()


async def test_an_archived_picture_never_overwrites_another(desk: Desk) -> None:
    for number in (1, 2):
        desk.drop(content=picture(40 + number))
        await desk.take()
        await finish(desk)
    assert names(desk.inbox.archive) == [
        "cat-2.jpg", "cat.jpg",
    ]  # fmt: skip


async def test_a_newer_drop_at_the_same_place_is_not_archived_for_the_old_one(desk: Desk) -> None:
    desk.drop()
    await desk.take()
    job = desk.claim()
    desk.drop(content=picture(99))
    desk.store.begin_publication(job, {})
    desk.store.done(job, {})
    desk.services.archive.archive_job(job)
    assert (desk.inbox.path / "cat.jpg").read_bytes() == picture(99)
    assert desk.job().picture_location == "gone"
    await desk.take()
    assert desk.job(2).state == "queued"


@pytest.mark.parametrize("on_success", ["keep", "delete"])
async def test_a_done_picture_can_be_kept_or_deleted(desk: Desk, on_success: str) -> None:
    inbox = desk.inbox.model_copy(update={"on_success": on_success})
    desk.settings = desk.settings.model_copy(update={"inbox": (inbox,)})
    desk.drop()
    await desk.take()
    await finish(desk)
    assert (desk.inbox.path / "cat.jpg").exists() == (on_success == "keep")
    assert await desk.news() == []


async def test_a_failed_job_moves_the_picture_to_failed_and_retry_restores_it(desk: Desk) -> None:
    (desk.inbox.path / "cat.jpg.txt").write_text("zooming in")
    desk.drop()
    await desk.take()
    await finish(desk, well=False)
    assert names(desk.inbox.failed) == [
        "cat.jpg", "cat.jpg.reason.json", "cat.jpg.txt",
    ]  # fmt: skip
    assert control.retry(desk.services, 1).state == "queued"
    assert names(desk.inbox.failed) == []
    assert await desk.take() is None
    assert desk.queries.job(2) is None
    assert desk.claim().id == 1


async def test_the_last_error_is_shown_until_archival_succeeds(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, told = desk.services.archive, []

    def full(*_: object) -> None:
        told.append(archive.last_error)
        raise OSError(28, "No space left on device")

    desk.drop()
    await desk.take()
    desk.services.operator.cancel(1)
    monkeypatch.setattr(desk.services.markers, "check", full)
    archive.archive_job(desk.job())
    archive.archive_pending(desk.inbox)
    assert archive.last_error is not None
    assert told == [None, archive.last_error]
    monkeypatch.undo()
    archive.archive_pending(desk.inbox)
    assert archive.last_error is None
    assert names(desk.inbox.path) == []


async def test_retry_refuses_when_another_picture_lies_there(desk: Desk) -> None:
    desk.drop()
    await desk.take()
    await finish(desk, well=False)
    desk.drop(content=picture(99))
    with pytest.raises(control.Refused, match="another"):
        control.retry(desk.services, 1)
    assert desk.job().state == "failed"
    assert (desk.inbox.failed / "cat.jpg").exists()


async def test_cancelling_a_queued_job_moves_its_picture_to_failed(desk: Desk) -> None:
    desk.drop()
    await desk.take()
    assert control.cancel(desk.services, 1).state == "cancelled"
    assert (desk.inbox.failed / "cat.jpg").exists()
    with pytest.raises(control.Refused, match="is cancelled"):
        control.cancel(desk.services, 1)
    with pytest.raises(control.Refused, match="no job 9"):
        control.cancel(desk.services, 9)


async def test_a_picture_that_lost_some_variants_is_archived(desk: Desk) -> None:
    desk.rule("90-default", RULE + "variants = 2\n")
    desk.drop()
    await desk.take()
    await finish(desk, well=False)
    assert (desk.inbox.path / "cat.jpg").exists()
    await finish(desk)
    assert (desk.inbox.archive / "cat.jpg").exists()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_an_inbox_that_takes_only_prompts_rejects_other_settings(desk: Desk) -> None:
    desk.inbox = desk.inbox.model_copy(update={"overrides": "prompt"})
    desk.drop("a.jpg")
    (desk.inbox.path / "a.jpg.txt").write_text("zooming in")
    desk.drop("b.jpg", picture(50))
    (desk.inbox.path / "b.jpg.toml").write_text("priority = 100\nvariants = 16\n")
    for name in "a.jpg", "b.jpg":
        assert await desk.take(name) is None
    spec = desk.job(1).spec
    assert spec is not None
    assert spec.prompt == "zooming in"
    assert desk.job(2).state == "failed"
    assert "b.jpg.toml:1: priority: this inbox takes only prompts" in (desk.job(2).error or "")
    assert desk.queries.job(3) is None


# --- trouble of the place


async def test_a_picture_that_cannot_be_read_now_stays_however_often(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.drop()

    async def away(*_: object, **__: object) -> Unavailable:
        return Unavailable(reason="the file cannot be read: Permission denied")

    monkeypatch.setattr(desk.decoder, "inspect_quickly", away)
    for _ in range(5):
        answer = await desk.take()
        assert isinstance(answer, RetryWithBackoff)
        assert answer.skip.reason == "unreadable"
    assert desk.queries.job(1) is None
    assert names(desk.inbox.path) == ["cat.jpg"]
    monkeypatch.undo()
    assert await desk.take() is None
    assert desk.job().state == "queued"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE, errno.EBUSY])
async def test_an_override_that_cannot_be_read_now_rejects_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (desk.inbox.path / "cat.jpg.txt").write_text("zooming in")
    desk.drop()
    real = os.open

    def refusing(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith(".txt"):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(OSError, match=r"cat\.jpg\.txt"):
        await desk.take()
    assert desk.queries.job(1) is None
    monkeypatch.undo()
    assert await desk.take() is None
    job = desk.job()
    assert job.spec is not None
    assert job.spec.prompt == "zooming in"


async def test_a_hostile_override_rejects_its_picture_alone(desk: Desk) -> None:
    (desk.inbox.path / "cat.jpg.toml").write_text("frames" + ".a" * 4000 + " = 1")
    desk.drop()
    assert await desk.take() is None
    assert "nested too deeply" in str(desk.job().error)
    assert names(desk.inbox.failed) == ["cat.jpg", "cat.jpg.reason.json", "cat.jpg.toml"]


# --- a picture that was rejected, again


async def test_a_rejected_picture_is_dropped_again_and_looked_at_anew(desk: Desk) -> None:
    (desk.inbox.path / "cat.jpg.toml").write_text("frames = 99\n")
    desk.drop()
    await desk.take()
    assert desk.job().state == "failed"
    (desk.inbox.failed / "cat.jpg.toml").write_text("frames = 16\n")
    assert control.retry(desk.services, 1).picture_location == "gone"
    assert names(desk.inbox.failed) == []
    assert await desk.news() == ["cat.jpg"]
    assert await desk.take() is None
    again = desk.job(2)
    assert again.spec is not None
    assert (again.state, again.spec.frames, again.drop) == ("queued", 16, 2)
    assert [event.event for event in desk.queries.events(1)] == ["rejected", "dropped_again"]


async def test_a_picture_rejected_as_undecodable_is_dropped_again(desk: Desk) -> None:
    desk.drop(content=b"no picture")
    await desk.waits()
    await desk.take()
    control.retry(desk.services, 1)
    assert await desk.waits() == (7.0, "incomplete")
    await desk.take()
    assert desk.job(2).state == "failed"
    assert names(desk.inbox.failed) == ["cat.jpg", "cat.jpg.reason.json"]


async def test_a_rejected_picture_is_not_put_over_another(desk: Desk) -> None:
    desk.drop(content=b"no picture")
    await desk.waits()
    await desk.take()
    desk.drop()
    with pytest.raises(control.Refused, match="another"):
        control.retry(desk.services, 1)
    (desk.inbox.path / "cat.jpg").unlink()
    (desk.inbox.failed / "cat.jpg").unlink()
    with pytest.raises(control.Refused, match="not in its folder"):
        control.retry(desk.services, 1)


# --- who is this picture?


async def test_a_kept_picture_that_was_copied_touched_or_restored_is_the_same(desk: Desk) -> None:
    inbox = desk.inbox.model_copy(update={"on_success": "keep"})
    desk.settings = desk.settings.model_copy(update={"inbox": (inbox,)})
    desk.drop()
    await desk.take()
    await finish(desk)
    file = desk.inbox.path / "cat.jpg"
    shutil.copy2(file, file.with_name("copy"))
    file.with_name("copy").replace(file)
    assert await desk.news() == [], "a copy with its time"
    os.utime(file, (1, 1))
    assert await desk.news() == ["cat.jpg"]
    assert await desk.take() is None
    assert await desk.news() == [], "touched"
    assert desk.queries.job(2) is None
    desk.drop(content=picture(41))
    assert await desk.take() is None
    assert desk.job(2).state == "queued", "another picture"


async def test_a_touched_picture_with_a_wrong_override_meanwhile_is_not_rejected(
    desk: Desk,
) -> None:
    desk.drop()
    await desk.take()
    (desk.inbox.path / "cat.jpg.toml").write_text("frames = 99\n")
    os.utime(desk.inbox.path / "cat.jpg", (1, 1))
    assert await desk.take() is None
    assert desk.queries.job(2) is None
    assert desk.job().state == "queued"


# --- whose override is this?


def came(path: Path, seconds_ago: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the override beside pictures come some time ago: a ctime cannot be set."""
    real = Path.lstat

    def lstat(self: Path) -> os.stat_result:
        status = real(self)
        if self.name != path.name:
            return status
        ctime = status.st_ctime - seconds_ago
        return os.stat_result(
            (*status[:9], int(ctime)), {"st_ctime": ctime, "st_mtime_ns": status.st_mtime_ns}
        )

    monkeypatch.setattr(Path, "lstat", lstat)


async def test_an_override_for_an_earlier_picture_is_not_applied_to_a_later_one(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    override = desk.inbox.path / "cat.jpg.toml"
    desk.drop()
    await desk.take()
    override.write_text("seed = 4242\n")  # after its picture was taken
    await finish(desk)
    assert override.exists(), "it did not belong to the picture that was archived"
    assert names(desk.inbox.archive) == ["cat.jpg"]
    with desk.database.write() as db:
        db.execute(sa.update(jobs).values(created=jobs.c.created - 1000))
    came(override, 61, monkeypatch)
    desk.drop(content=picture(50))
    await desk.take()
    later = desk.job(2)
    assert later.spec is not None
    assert (later.spec.seed == 4242, later.overrides) == (False, ())
    await finish(desk)
    assert override.exists()


@pytest.mark.parametrize(("seconds", "applied"), [(1800, True), (3700, False)])
async def test_an_override_may_come_up_to_an_hour_before_its_picture(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, seconds: float, applied: bool
) -> None:
    override = desk.inbox.path / "cat.jpg.TXT"
    override.write_text("zooming in")
    came(override, seconds, monkeypatch)
    desk.drop()
    await desk.take()
    job = desk.job()
    assert job.spec is not None
    assert (job.spec.prompt == "zooming in") == applied
    assert [each.name for each in job.overrides] == (["cat.jpg.TXT"] if applied else [])


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_no_override_is_read_through_a_link_in_the_place_of_a_folder(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link comes when the picture has been decoded."""
    desk.drop("sub/cat.jpg")
    secret, really = tmp_path / "elsewhere" / "cat.jpg.txt", desk.store.recognise
    secret.parent.mkdir()
    secret.write_text("a secret")
    (secret.parent / "cat.jpg").write_bytes(b"")

    def replaced(*args: Any) -> bool:
        (desk.inbox.path / "sub").rename(desk.inbox.path / "was")
        (desk.inbox.path / "sub").symlink_to(secret.parent)
        return really(*args)

    monkeypatch.setattr(desk.store, "recognise", replaced)
    seen: list[str] = []
    parse = read_sidecar
    monkeypatch.setattr(
        "daemon.intake.intake.read_sidecar",
        lambda found, *how: seen.extend(each.path.name for each in found) or parse(found, *how),
    )
    assert await desk.take("sub/cat.jpg") is None
    assert seen == []
    assert desk.job().overrides == ()


async def test_a_change_of_mode_does_not_make_an_override_old(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture came with its override, and could not be read for two hours."""
    desk.drop()
    override = desk.inbox.path / "cat.jpg.txt"
    override.write_text("zooming in")
    came(override, 7200, monkeypatch)
    seen = scan(desk.inbox.path, recursive=True).pictures["cat.jpg"]
    monkeypatch.setattr(time, "time", lambda: seen.ctime_ns / 1e9 - 7199)
    desk.intake._remember(desk.inbox, "cat.jpg", seen)
    monkeypatch.undo()
    came(override, 7200, monkeypatch)
    await desk.take()
    job = desk.job()
    assert job.spec is not None
    assert job.spec.prompt == "zooming in"


async def test_overrides_that_no_job_used_are_known(desk: Desk) -> None:
    (desk.inbox.path / "cat.jpg.txt").write_text("zooming in")
    desk.drop()
    desk.drop("dog.jpg", picture(50))
    asked = {"cat.jpg.txt": "cat.jpg", "cat.jpg.toml": "cat.jpg", "dog.jpg.txt": "dog.jpg"}
    assert await desk.intake.overrides_used(desk.inbox, asked) == {}
    await desk.take()
    used = await desk.intake.overrides_used(desk.inbox, asked)
    assert used == {"cat.jpg.txt": True, "cat.jpg.toml": False}


@pytest.mark.parametrize("ending", [".TOML", ".Toml"])
async def test_an_override_in_upper_case_goes_where_its_picture_goes(
    desk: Desk, ending: str
) -> None:
    (desk.inbox.path / f"cat.jpg{ending}").write_text("frames = 16\n")
    desk.drop()
    await desk.take()
    job = await finish(desk, well=False)
    assert job.spec is not None
    assert job.spec.frames == 16
    assert names(desk.inbox.failed) == ["cat.jpg", f"cat.jpg{ending}", "cat.jpg.reason.json"]
    control.retry(desk.services, 1)
    assert names(desk.inbox.path) == ["cat.jpg", f"cat.jpg{ending}"]
    await finish(desk)
    assert names(desk.inbox.archive) == ["cat.jpg", f"cat.jpg{ending}"]


async def test_an_override_with_its_accent_written_otherwise_goes_along(desk: Desk) -> None:
    composed, decomposed = (unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD"))
    (desk.inbox.path / f"{composed}.txt").write_text("zooming in")
    desk.drop(decomposed)
    await desk.take(decomposed)
    job = await finish(desk)
    assert job.spec is not None
    assert job.spec.prompt == "zooming in"
    assert names(desk.inbox.archive) == [decomposed, f"{decomposed}.txt"]
    assert names(desk.inbox.path) == []
