"""`i2vd explain` says of each file what the daemon does with it."""

import asyncio
import contextlib
import io
import os
import socket
import time
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from daemon.cli.explain import Explanation, NotExplained, explain, show
from daemon.config.loader import load
from daemon.config.settings import Settings
from daemon.intake.scanner import scan
from daemon.jobs.database import Database
from daemon.jobs.operator import Operator


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """An inbox `inbox` with a rule for every picture, in the working folder."""
    monkeypatch.chdir(tmp_path)
    for folder in "inbox", "rules":
        (tmp_path / folder).mkdir()
    (tmp_path / "rules/90-all.toml").write_text('[make]\npreset = "draft"\nprompt = "a cat"\n')
    return load_recursive(True)


def load_recursive(recursive: bool) -> Settings:
    Path("i2vd.toml").write_text(
        'state = "state"\n[model]\nname = "micro"\n[[inbox]]\nname = "inbox"\npath = "inbox"\n'
        f'rules = "rules"\noutbox = "outbox"\nrecursive = {str(recursive).lower()}\n'
        "stability_delay = 0.5\n"
    )
    return load(Path("i2vd.toml"))


def explained(settings: Settings, path: Path | str) -> Explanation:
    answer, shown = asyncio.run(explain(settings, Path(path))), io.StringIO()
    show(answer, Console(file=shown))
    (shown.getvalue() + answer.model_dump_json()).encode()  # no byte of a name is shown as it is
    return answer


def write_picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((96, 96), 90).save(path, "PNG")


def fill(inbox: Path) -> None:
    """Put something of each kind into an inbox, pictures as well."""
    for name in (
        "cat.png", "sub/deep/cat.png", "half.png", "half.png.aria2", "a.jpg.part", "film.mov",
        "cat (conflicted copy 2024-01-31).png", "notes.md", "stray.txt", "cat.png.txt",
        ".DS_Store", "@eaDir/cat.png", ".hidden/cat.png",
    ):  # fmt: skip
        write_picture(inbox / name)
    (inbox / "cat.png.txt").write_text("a dog")
    (inbox / "link.png").symlink_to(inbox / "cat.png")
    (inbox / "dangling.png").symlink_to(inbox / "gone.png")
    (inbox / "linked").symlink_to(inbox / "sub")
    os.mkfifo(inbox / "fifo.png")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(inbox / "socket.png"))


@pytest.mark.parametrize("recursive", [True, False])
def test_it_agrees_with_the_daemon(settings: Settings, recursive: bool) -> None:
    settings, inbox = load_recursive(recursive), settings.inbox[0].path
    fill(inbox)
    found = scan(inbox, recursive)
    assert len(found.skipped) >= 12
    for path, skip in found.skipped.items():
        answer = explained(settings, inbox / path)
        assert (answer.ignored, answer.gives_clip) == (f"{path}: {skip.detail}", False)
    for path in found.pictures:
        answer = explained(settings, inbox / path)
        assert (answer.ignored, answer.rule, answer.gives_clip) == (None, "90-all", True), path
    if recursive:
        assert set(found.pictures) == {"cat.png", "sub/deep/cat.png"}
    else:
        assert "subfolders" in (explained(settings, inbox / "sub/deep/cat.png").ignored or "")
    for path in ("linked/deep/cat.png", "@eaDir/cat.png", ".hidden/cat.png", ".DS_Store", "sub"):
        assert explained(settings, inbox / path).ignored, path
    assert "settings of 'cat.png'" in (explained(settings, inbox / "cat.png.txt").ignored or "")


def test_a_path_is_taken_as_the_api_gives_it(settings: Settings) -> None:
    inbox = settings.inbox[0].path
    fill(inbox)
    for path in (
        "sub/deep/cat.png",
        inbox / "sub/deep/cat.png",
        inbox / "sub/../sub/deep/../deep/cat.png",
        "inbox/sub/deep/cat.png",
    ):
        answer = explained(settings, path)
        assert (answer.rule, Path(answer.picture)) == ("90-all", inbox / "sub/deep/cat.png")


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"\xff\xfe.png", b"caf\xe9/cat.png"])
def test_a_name_need_not_be_utf8(settings: Settings, tmp_path: Path, name: bytes) -> None:
    for folder in tmp_path, settings.inbox[0].path:
        path = folder / os.fsdecode(name)
        write_picture(path)
        answer = explained(settings, path)
        assert "\\x" in answer.picture
        if folder == tmp_path and b"/" in name:
            assert answer.rule == "90-all"
        else:
            assert "not UTF-8; rename it" in (answer.ignored or "")
        path.unlink()
        with pytest.raises(NotExplained, match="no such file"):
            explained(settings, path)


def test_a_seed_that_is_drawn_later_is_not_shown(settings: Settings) -> None:
    picture = settings.inbox[0].path / "cat.png"
    write_picture(picture)
    answer, shown = explained(settings, picture), io.StringIO()
    show(answer, Console(file=shown))
    assert "drawn when the picture is taken" in shown.getvalue()
    assert str(answer.specs[0].seed) not in shown.getvalue()
    picture.with_name("cat.png.toml").write_text("seed = 7\n")
    answer = explained(settings, picture)
    assert (answer.seed, answer.specs[0].seed) == (7, 7)


def test_it_says_what_a_picture_waits_for(settings: Settings) -> None:
    picture = settings.inbox[0].path / "cat.png"
    write_picture(picture)
    os.utime(picture, (1, 1))  # its content is old, its arrival is not
    (reason,) = explained(settings, picture).waits
    assert reason.startswith("still changing")
    settings.state.mkdir()
    with contextlib.closing(Database(settings.queue_url)) as database:
        Operator(database).pause(True)
    time.sleep(settings.inbox[0].stability_delay)
    (reason,) = explained(settings, picture).waits
    assert "i2vd resume" in reason
    with contextlib.closing(Database(settings.queue_url)) as database:
        Operator(database).pause(False)
    assert explained(settings, picture).waits == []


def test_a_clip_without_a_prompt_is_warned_of(settings: Settings) -> None:
    picture = settings.inbox[0].path / "cat.png"
    write_picture(picture)
    picture.with_name("cat.png.toml").write_text('prompt = ""\n')
    assert any("prompt: is empty" in warning for warning in explained(settings, picture).warnings)


def test_a_mistake_gives_no_clip(settings: Settings) -> None:
    picture = settings.inbox[0].path / "cat.png"
    write_picture(picture)
    picture.with_name("cat.png.toml").write_text("frames = 99\n")
    answer = explained(settings, picture)
    assert (len(answer.mistakes), answer.gives_clip) == (1, False)
    (settings.inbox[0].rules / "10-wrong.toml").write_text("[make]\nframes = 99\n")
    answer = explained(settings, picture)
    assert ("10-wrong" in answer.mistakes[0], answer.gives_clip) == (True, False)


@pytest.mark.parametrize("name", ["x" * 5000 + ".png", "a/" * 3000 + "cat.png", "cat.png/b.png"])
def test_a_path_that_cannot_be_is_refused_in_words(settings: Settings, name: str) -> None:
    write_picture(settings.inbox[0].path / "cat.png")
    with pytest.raises(NotExplained) as refusal:
        explained(settings, settings.inbox[0].path / name)
    assert "Errno" not in str(refusal.value)


def test_a_file_of_any_size_is_answered_at_once(settings: Settings) -> None:
    large = settings.inbox[0].path / "large.png"
    with large.open("wb") as file:
        file.truncate(1 << 40)
    assert "allowed: up to" in (explained(settings, large).unreadable or "")
