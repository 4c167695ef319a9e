"""Publication and atomic moves: exactly once, never over another file, whatever was interrupted."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.fs.atomic import (
    CommitMethod,
    atomic_write,
    probe_commit_method,
    publish_exclusive,
)
from daemon.fs.move import move
from daemon.fs.names import NameRules, numbered_names
from daemon.publish.publisher import CLIP, SIDECAR, ClipLost, publish, withdraw
from pipeline.durable import fsync_dir

METHODS = list(CommitMethod)


class Stop(Exception):
    """A crash at a certain system call."""


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    folder = tmp_path / "outbox" / ".i2vd" / "1-1"
    folder.mkdir(parents=True)
    (folder / CLIP).write_bytes(b"the clip")
    (folder / SIDECAR).write_text('{"job": "1"}')
    return folder


DIGEST = hashlib.sha256(b'{"job": "1"}').hexdigest()


def clips(outbox: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in outbox.iterdir() if file.is_file()}


@pytest.mark.parametrize("method", METHODS)
def test_clip_and_sidecar_appear(staging: Path, tmp_path: Path, method: CommitMethod) -> None:
    outbox = tmp_path / "outbox"
    assert publish(staging, outbox, "cat", method, DIGEST) == outbox / "cat.mp4"
    assert clips(outbox) == {"cat.mp4": b"the clip", "cat.mp4.json": b'{"job": "1"}'}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("held", [["cat.mp4"], ["cat.mp4.json"], ["cat.mp4", "cat.mp4.json"]])
def test_a_held_name_is_never_overwritten(
    staging: Path, tmp_path: Path, method: CommitMethod, held: list[str]
) -> None:
    outbox = tmp_path / "outbox"
    for name in held:
        (outbox / name).write_bytes(b"yours")
    assert publish(staging, outbox, "cat", method, DIGEST) == outbox / "cat-2.mp4"
    found = clips(outbox)
    assert {name: found.pop(name) for name in held} == dict.fromkeys(held, b"yours")
    assert sorted(found) == ["cat-2.mp4", "cat-2.mp4.json"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("held", [[], ["cat.mp4"], ["cat.mp4.json"]])
@pytest.mark.parametrize("crash_at", range(6))
def test_a_crash_at_any_step_is_carried_on(
    staging: Path,
    tmp_path: Path,
    method: CommitMethod,
    held: list[str],
    crash_at: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outbox = tmp_path / "outbox"
    for name in held:
        (outbox / name).write_bytes(b"yours")
    calls = 0

    def crashing(real: object) -> object:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal calls
            if calls == crash_at:
                raise Stop
            calls += 1
            result = real(*args, **kwargs)  # type: ignore[operator]
            for clip in outbox.glob("*.mp4"):
                if clip.read_bytes() == b"the clip":
                    assert clip.with_name(f"{clip.name}.json").read_bytes() == b'{"job": "1"}'
            return result

        return call

    with monkeypatch.context() as patched:
        patched.setattr("daemon.publish.publisher.publish_exclusive", crashing(publish_exclusive))
        patched.setattr("daemon.publish.publisher.fsync_dir", crashing(fsync_dir))
        patched.setattr(Path, "unlink", crashing(Path.unlink))
        patched.setattr(Path, "rename", crashing(Path.rename))
        with contextlib.suppress(Stop):
            publish(staging, outbox, "cat", method, DIGEST)
    for name in held:  # a name may get free between a crash and the restart
        if crash_at % 2:
            (outbox / name).unlink()
    publish(staging, outbox, "cat", method, DIGEST)
    found = clips(outbox)
    for name in held:
        if not crash_at % 2:
            assert found.pop(name) == b"yours"
    if method is CommitMethod.RESERVE:  # a name that was held when the crash came
        found = {name: content for name, content in found.items() if content}
    assert sorted(found.values()) == [b"the clip", b'{"job": "1"}']
    clip, sidecar = sorted(found)
    assert sidecar == f"{clip}.json"


@pytest.mark.parametrize("method", METHODS)
def test_publishing_twice_gives_one_clip(
    staging: Path, tmp_path: Path, method: CommitMethod
) -> None:
    outbox = tmp_path / "outbox"
    first = publish(staging, outbox, "cat", method, DIGEST)
    assert publish(staging, outbox, "cat", method, DIGEST) == first
    assert len(clips(outbox)) == 2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stem", ["x" * 251, "é" * 125, "絵" * 83])
def test_the_longest_names_are_published_once(
    staging: Path, tmp_path: Path, method: CommitMethod, stem: str
) -> None:
    outbox = tmp_path / "outbox"
    first = publish(staging, outbox, stem, method, DIGEST)
    assert publish(staging, outbox, stem, method, DIGEST) == first
    assert len(clips(outbox)) == 2


def test_subfolders_are_made(staging: Path, tmp_path: Path) -> None:
    outbox = tmp_path / "outbox"
    clip = publish(staging, outbox, "pets/my/cat", CommitMethod.LINK, DIGEST)
    assert clip == outbox / "pets" / "my" / "cat.mp4"
    assert clip.read_bytes() == b"the clip"


def test_this_file_system_can_link(tmp_path: Path) -> None:
    assert probe_commit_method(tmp_path) is CommitMethod.LINK
    assert list(tmp_path.iterdir()) == []


def test_where_links_fail_renames_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    assert probe_commit_method(tmp_path) is CommitMethod.RENAME
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        probe_commit_method(tmp_path / "nowhere")


def test_what_a_killed_probe_left_goes_with_the_next(tmp_path: Path) -> None:
    killed = (
        "import os, signal, sys; from pathlib import Path; from daemon.fs import atomic;"
        "atomic.publish_exclusive = lambda *_: os.kill(os.getpid(), signal.SIGKILL);"
        "atomic.probe_commit_method(Path(sys.argv[1]))"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", killed, tmp_path], check=False)
    old, young = tmp_path.iterdir()
    os.utime(old, (0, 0))
    probe_commit_method(tmp_path)
    assert [*tmp_path.iterdir()] == [young], "another host may be at it"


def test_a_move_never_overwrites(tmp_path: Path) -> None:
    away = tmp_path / "archive"
    for content in (b"1", b"2", b"3"):
        (tmp_path / "cat.jpg").write_bytes(content)
        move(tmp_path / "cat.jpg", away, "cat.jpg")
    assert clips(away) == {"cat.jpg": b"1", "cat-2.jpg": b"2", "cat-3.jpg": b"3"}
    assert not (tmp_path / "cat.jpg").exists()


def test_a_move_across_file_systems_copies(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is not another file system here")
    (tmp_path / "cat.jpg").write_bytes(b"cat")
    os.utime(tmp_path / "cat.jpg", (1, 2))
    folder = other / f"i2vd-test-{os.getpid()}"
    try:
        there = folder / move(tmp_path / "cat.jpg", folder, "cat.jpg").inside
        assert clips(folder) == {"cat.jpg": b"cat"}
        assert there == folder / "cat.jpg"
        assert there.stat().st_mtime == 2
        assert not (tmp_path / "cat.jpg").exists()
    finally:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


@given(st.text(min_size=1).filter(lambda s: "/" not in s and "\0" not in s))
def test_numbered_names_fit_and_differ(stem: str) -> None:
    names = numbered_names(stem, ".mp4.json", NameRules(max_bytes=255))
    first, second = next(names), next(names)
    assert first != second
    assert all(len(name.encode()) <= 255 for name in (first, second))
    assert first.endswith(".mp4.json")


def test_a_durable_write_leaves_nothing_beside_it(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a.json", "one")
    atomic_write(tmp_path / "a.json", "two")
    assert clips(tmp_path) == {"a.json": b"two"}


@pytest.mark.parametrize("method", METHODS)
def test_a_clip_that_is_nowhere_is_lost_and_nothing_is_touched(
    staging: Path, tmp_path: Path, method: CommitMethod
) -> None:
    outbox = tmp_path / "outbox"
    (outbox / "cat.mp4").write_bytes(b"yours")
    (outbox / "cat-2.mp4.json").write_text('{"job": "1"}')  # a sidecar before a crash
    shutil.rmtree(staging)
    before = clips(outbox)
    with pytest.raises(ClipLost):
        publish(staging, outbox, "cat", method, DIGEST)
    assert clips(outbox) == before
    assert withdraw(staging, outbox, "cat", method, DIGEST) is None
    assert clips(outbox) == {"cat.mp4": b"yours"}


@pytest.mark.parametrize("method", METHODS)
def test_a_clip_that_has_its_name_is_not_lost_with_its_staging(
    staging: Path, tmp_path: Path, method: CommitMethod
) -> None:
    outbox = tmp_path / "outbox"
    clip = publish(staging, outbox, "a:b", method, DIGEST)
    shutil.rmtree(staging)
    assert publish(staging, outbox, "a:b", method, DIGEST) == clip
    assert withdraw(staging, outbox, "a:b", method, DIGEST) == clip
    assert len(clips(outbox)) == 2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("crash_at", range(6))
@pytest.mark.parametrize("again_at", range(4))
def test_a_publication_is_withdrawn_whole_or_was_done(
    staging: Path, tmp_path: Path, method: CommitMethod, crash_at: int, again_at: int
) -> None:
    """Interrupted at any step, withdrawn with an interruption, and withdrawn to the end."""
    outbox = tmp_path / "outbox"
    (outbox / "cat.mp4").write_bytes(b"yours")

    def interrupted(at: int, act: Callable[[], object]) -> None:
        calls = 0

        def crashing(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                if calls == at:
                    raise Stop
                calls += 1
                return real(*args, **kwargs)

            return call

        with pytest.MonkeyPatch.context() as patched, contextlib.suppress(Stop):
            patched.setattr(
                "daemon.publish.publisher.publish_exclusive", crashing(publish_exclusive)
            )
            patched.setattr("daemon.publish.publisher.fsync_dir", crashing(fsync_dir))
            patched.setattr(Path, "unlink", crashing(Path.unlink))
            patched.setattr(Path, "rename", crashing(Path.rename))
            act()

    interrupted(crash_at, lambda: publish(staging, outbox, "cat", method, DIGEST))
    interrupted(again_at, lambda: withdraw(staging, outbox, "cat", method, DIGEST))
    clip = withdraw(staging, outbox, "cat", method, DIGEST)
    found = {name: content for name, content in clips(outbox).items() if content}
    assert found.pop("cat.mp4") == b"yours"
    if clip is None:
        assert found == {}
        with pytest.raises(ClipLost):  # no other host can go on with it
            publish(staging, outbox, "cat", method, DIGEST)
    else:
        assert found == {clip.name: b"the clip", f"{clip.name}.json": b'{"job": "1"}'}


@pytest.mark.parametrize("stranger", ["folder", "pipe", "link"])
def test_what_is_no_sidecar_is_passed_over(staging: Path, tmp_path: Path, stranger: str) -> None:
    outbox = tmp_path / "outbox"
    place = outbox / "cat.mp4.json"
    if stranger == "folder":
        place.mkdir()
    elif stranger == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to("/etc/hostname")
    shutil.copytree(staging, tmp_path / "kept")
    (staging / SIDECAR).unlink()  # its size is unknown
    with pytest.raises(ClipLost):
        publish(staging, outbox, "cat", CommitMethod.RENAME, DIGEST)
    shutil.copy(tmp_path / "kept" / SIDECAR, staging)
    clip = publish(staging, outbox, "cat", CommitMethod.RENAME, DIGEST)
    assert clip == outbox / "cat-2.mp4"
