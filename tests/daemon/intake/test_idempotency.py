"""Idempotency keys: a repeated request is dropped once, whenever the first was cut off."""

import errno
import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import sqlalchemy as sa

from daemon.config.settings import Inbox
from daemon.intake import idempotency
from daemon.intake.idempotency import Announce, IdempotencyKeys, IdempotentRequest, KeyTaken
from daemon.intake.submit import copy_in
from daemon.jobs.database import Database
from daemon.jobs.queries import JobQueries
from daemon.jobs.schema import submissions

PICTURE = b"a cat"
ASKED = IdempotentRequest("key", "digest", hashlib.sha256(PICTURE).hexdigest())


Enqueue = Callable[..., list[int]]


class CutOff(Exception):
    pass


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    (tmp_path / "inbox").mkdir()
    return Inbox(path=tmp_path / "inbox")


def ask(database: Database, inbox: Inbox, asked: IdempotentRequest = ASKED, cut: str = "") -> str:
    """Send one request to a daemon that was just started; `cut`: where it ends too early."""

    def drop(announce: Announce) -> str:
        def announced(path: Path) -> None:
            if cut == "before the note":
                raise CutOff
            announce(path.name)
            if cut == "after the note":
                raise CutOff

        there = copy_in(io.BytesIO(PICTURE), "cat.jpg", inbox.path, None, announced)
        if cut == "after the drop":
            raise CutOff
        return there.name

    return IdempotencyKeys(database, JobQueries(database)).drop_once(asked, inbox, drop)


def pictures(inbox: Inbox) -> list[str]:
    return sorted(file.name for file in inbox.path.iterdir())


def test_the_same_key_twice_is_one_drop(database: Database, inbox: Inbox) -> None:
    assert ask(database, inbox) == ask(database, inbox) == "cat.jpg"
    assert pictures(inbox) == ["cat.jpg"]


@pytest.mark.parametrize("cut", ["before the note", "after the note", "after the drop"])
def test_asked_again_after_a_crash_it_is_dropped_once(
    database: Database, inbox: Inbox, cut: str
) -> None:
    with pytest.raises(CutOff):
        ask(database, inbox, cut=cut)
    assert ask(database, inbox) == "cat.jpg"
    assert pictures(inbox) == ["cat.jpg"]


def test_a_picture_that_was_made_meanwhile_is_not_dropped_again(
    database: Database, inbox: Inbox, enqueue: Enqueue
) -> None:
    there = ask(database, inbox)
    (inbox.path / there).unlink()
    enqueue("cat.jpg", sha256=ASKED.sha256)
    assert ask(database, inbox) == there
    assert pictures(inbox) == []


def test_a_job_of_an_earlier_drop_does_not_count(
    database: Database, inbox: Inbox, enqueue: Enqueue
) -> None:
    enqueue("cat.jpg", sha256=ASKED.sha256)
    with pytest.raises(CutOff):
        ask(database, inbox, cut="after the note")
    assert ask(database, inbox) == "cat.jpg"
    assert pictures(inbox) == ["cat.jpg"]


def test_asked_again_of_a_host_with_other_paths_it_is_dropped_once(
    database: Database, inbox: Inbox, tmp_path: Path
) -> None:
    there = Inbox(path=tmp_path / "elsewhere")
    there.path.symlink_to(inbox.path)
    assert ask(database, inbox) == ask(database, there) == "cat.jpg"
    assert pictures(inbox) == ["cat.jpg"]


def test_a_key_stands_for_one_request(database: Database, inbox: Inbox) -> None:
    ask(database, inbox)
    with pytest.raises(KeyTaken, match="used for another request"):
        ask(database, inbox, IdempotentRequest("key", "another", ASKED.sha256))


def test_another_key_is_another_drop(database: Database, inbox: Inbox) -> None:
    ask(database, inbox)
    assert ask(database, inbox, ASKED._replace(key="two")) == "cat-2.jpg"


def test_old_keys_are_forgotten(database: Database, inbox: Inbox) -> None:
    ask(database, inbox)
    with database.write() as db:
        db.execute(submissions.update().values(at=1.0))
    ask(database, inbox, ASKED._replace(key="two"))
    with database.read() as db:
        assert db.scalars(sa.select(submissions.c.key)).all() == ["two"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_a_picture_that_cannot_be_read_now_is_not_dropped_again(
    database: Database, inbox: Inbox, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with pytest.raises(CutOff):
        ask(database, inbox, cut="after the drop")
    away = Mock(side_effect=OSError(number, os.strerror(number)))
    monkeypatch.setattr(idempotency, "open_below", away)
    with pytest.raises(OSError, match=os.strerror(number)):
        ask(database, inbox)
    monkeypatch.undo()
    assert ask(database, inbox) == "cat.jpg"
    assert pictures(inbox) == ["cat.jpg"]
