"""What is advised about a file that cannot be read: the command, when run, makes it readable."""

import errno
import os
import pwd
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.intake.scanner import scan
from pipeline.children.picture_file import open_picture
from pipeline.children.protocol import Unavailable
from rules.read_error import advise

NOBODY = pwd.getpwnam("nobody")


@pytest.fixture
def inbox() -> Iterator[Path]:
    """A folder that another user reaches."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        (folder / "my trip").mkdir()
        (folder / "my trip" / "cat's.jpg").write_bytes(b"cat")
        yield folder


@pytest.fixture
def as_nobody() -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("only root can be another user for a while")
    os.seteuid(NOBODY.pw_uid)
    yield
    os.seteuid(0)


def run(advice: str) -> None:
    """Run the command of an advice as root, in place of `sudo`."""
    command = shlex.split(advice.partition(": sudo ")[2])
    os.seteuid(0)
    subprocess.run(command, check=True)
    os.seteuid(NOBODY.pw_uid)


@pytest.mark.parametrize("who", "ugo")
@pytest.mark.parametrize("blocked", ["my trip/cat's.jpg", "my trip"])
def test_the_advice_makes_a_picture_readable(
    inbox: Path, as_nobody: None, blocked: str, who: str
) -> None:
    os.seteuid(0)
    (inbox / blocked).chmod(0o600 if who == "o" else 0o000)
    owner = NOBODY.pw_uid if who == "u" else -1
    os.chown(inbox / blocked, owner, os.getegid() if who == "g" else NOBODY.pw_gid)
    os.seteuid(NOBODY.pw_uid)
    picture = inbox / "my trip" / "cat's.jpg"
    found = open_picture(picture, inbox)
    assert isinstance(found, Unavailable)
    before, advice, after = found.reason.split("; ")
    assert (before, after) == (
        "the file cannot be read: permission denied",
        "it will be tried again",
    )
    change = f"{who}+r" if blocked.endswith(".jpg") else f"{who}+rx"
    path = shlex.quote(str(inbox / blocked))
    assert advice == f"let the user nobody read it: sudo chmod {change} {path}"
    run(advice)
    opened = open_picture(picture, inbox)
    assert isinstance(opened, int)
    os.close(opened)


def test_the_advice_makes_a_folder_readable(inbox: Path, as_nobody: None) -> None:
    os.seteuid(0)
    (inbox / "my trip").chmod(0o700)
    os.seteuid(NOBODY.pw_uid)
    (skip,) = scan(inbox, recursive=True).skipped.values()
    assert skip.detail.startswith("cannot be read: permission denied; let the user nobody read it")
    run(skip.detail)
    assert list(scan(inbox, recursive=True).pictures) == ["my trip/cat's.jpg"]


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.EIO, "look at the disk or the share"),
        (errno.EUCLEAN, "look at the disk or the share"),
        (errno.ENAMETOOLONG, "a shorter name"),
        (errno.ESTALE, "whether the share is mounted"),
        (errno.ENOTCONN, "whether the share is mounted"),
        (errno.EBUSY, "the program that has it open"),
        (errno.EMFILE, "LimitNOFILE="),
        (errno.ENOKEY, "unlock the encrypted folder"),
        (errno.ENOMEM, "free memory"),
        (None, "look at the disk or the share"),
    ],
)
def test_each_error_has_its_advice(number: int | None, says: str) -> None:
    error = OSError(number, os.strerror(number)) if number else OSError("odd")
    assert says in advise(error, Path("/nowhere/cat.jpg"))


def test_root_is_told_to_look_at_the_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "root_squash" in advise(PermissionError(errno.EACCES, "x"), Path("/nowhere"))


def test_a_user_without_a_name_has_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_001)
    assert advise(PermissionError(errno.EACCES, "x")) == "let the user 4000001 read it"
