"""Submission: a picture appears complete, under a free name, with its override."""

import io
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from daemon.intake.intake import checker
from daemon.intake.junk import is_ignored
from daemon.intake.scanner import is_picture
from daemon.intake.submit import (
    InvalidFileName,
    OverrideFile,
    copy_in,
    make_override,
    picture_name,
    prompt_override,
    write_override,
)
from pipeline.request.presets import MICRO_FAMILY
from rules.override import AllowedOverrides, find_overrides
from rules.parse import parse_sidecar, read_sidecar

CHECKER = checker(MICRO_FAMILY)


def names(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_a_copy_never_takes_a_name_that_is_held(tmp_path: Path) -> None:
    for beside in (None, prompt_override("zoom in"), None):
        copy_in(io.BytesIO(b"cat"), "cat.jpg", tmp_path, beside)
    assert names(tmp_path) == {
        "cat.jpg": "cat",
        "cat-2.jpg": "cat",
        "cat-2.jpg.txt": "zoom in",
        "cat-3.jpg": "cat",
    }


def test_a_sidecar_that_waits_for_its_picture_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg.txt").write_text("pan left")
    assert copy_in(io.BytesIO(b"cat"), "cat.jpg", tmp_path, prompt_override("zoom in")) == (
        tmp_path / "cat-2.jpg"
    )
    assert (tmp_path / "cat.jpg.txt").read_text() == "pan left"


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path) -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise OSError("the sender is gone")

    with pytest.raises(OSError, match="gone"):
        copy_in(Broken(), "cat.jpg", tmp_path, prompt_override("zoom in"))  # type: ignore[arg-type]
    assert names(tmp_path) == {}


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("cat.jpg", "cat.jpg"),
        ("../../etc/cat.jpg", "cat.jpg"),
        ("C:\\Pictures\\cat.PNG", "cat.PNG"),
        (" cat.jpg ", "cat.jpg"),
        ("Katze, grün 😀.heic", "Katze, grün 😀.heic"),
    ],
)
def test_the_name_is_the_part_after_the_last_slash(given: str, name: str) -> None:
    assert picture_name(given) == name


@pytest.mark.parametrize(
    "given", ["", ".", "..", "cat", "cat.exe", ".cat.jpg", "cat.jpg.part", "a\nb.jpg", "a\0.jpg",
              "x" * 300 + ".jpg", "cat.jpg/", "\ud800.jpg"]
)  # fmt: skip
def test_what_is_no_name_of_a_picture_is_refused(given: str) -> None:
    with pytest.raises(InvalidFileName, match="picture's name"):
        picture_name(given)


@given(st.text(max_size=300), st.sampled_from(["", ".jpg", ".png"]))
def test_no_name_leads_out_of_the_inbox_or_is_passed_over(text: str, ending: str) -> None:
    try:
        name = picture_name(text + ending)
    except InvalidFileName:
        return
    assert (Path("/inbox") / name).resolve().parent == Path("/inbox")
    assert is_picture(name)
    assert not is_ignored(name)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)
_KEYS = st.text(max_size=12) | st.sampled_from(["prompt", "steps", "seed", "preset", "make"])


@given(st.dictionaries(_KEYS, _VALUES, max_size=4))
def test_any_settings_are_told_right_or_wrong_before_anything_is_written(
    make: dict[str, object],
) -> None:
    sidecar, _, mistakes = make_override(make, CHECKER)
    if not any(mistake.fatal for mistake in mistakes):
        read, again = parse_sidecar("cat.jpg.toml", sidecar.text, CHECKER)
        assert read is not None
        assert len(again) == len(mistakes)


@pytest.mark.parametrize(
    ("allowed", "refused"),
    [("all", []), ("prompt", ["priority", "frames"]), ("none", [""])],
)
def test_the_api_is_refused_what_the_inbox_does_not_take(
    allowed: AllowedOverrides, refused: list[str]
) -> None:
    make = {"prompt": "A cat", "priority": 100, "frames": 16}
    _, _, mistakes = make_override(make, CHECKER, allowed)
    assert [mistake.key for mistake in mistakes] == refused
    assert all(mistake.fatal and "this inbox takes" in mistake.message for mistake in mistakes)


def test_a_prompt_beside_is_taken_as_it_is() -> None:
    read, _ = parse_sidecar("cat.jpg.txt", prompt_override("a {cat}").text, CHECKER)
    assert read is not None
    assert prompt_override("a {cat}") == OverrideFile(".txt", "a {cat}")


PNG, JPEG, WEBP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\0\0\0\0WEBPVP8 "
HEIC, AVIF = b"\0\0\0\x18ftypheic", b"\0\0\0\x1cftypavif"


@pytest.mark.parametrize(
    ("given", "head", "name"),
    [
        ("image", JPEG, "image.jpg"),
        ("blob", PNG, "blob.png"),
        ("", PNG, "picture.png"),
        ("folder/", WEBP, "picture.webp"),
        ("Screenshot at 10.42.48", PNG, "Screenshot at 10.42.48.png"),
        (
            "Screenshot 2026-05-12 at 4.42.48\u202fPM",
            PNG,
            "Screenshot 2026-05-12 at 4.42.48\u202fPM.png",
        ),
        ("IMG_0001", HEIC, "IMG_0001.heic"),
        ("猫", AVIF, "猫.avif"),
        ("cat.jpg", PNG, "cat.jpg"),
        ("cat.PNG", JPEG, "cat.PNG"),
    ],
)
def test_a_name_without_an_ending_gets_it_from_the_content(
    given: str, head: bytes, name: str
) -> None:
    assert picture_name(given, head) == name


@pytest.mark.parametrize("given", ["cat.exe", "cat.mp4", "..", ".", ".hidden", "a~", "cat.part"])
def test_another_ending_or_a_hidden_name_is_refused_whatever_the_content(given: str) -> None:
    with pytest.raises(InvalidFileName):
        picture_name(given, PNG)


@pytest.mark.parametrize("head", [b"", b"GIF", b"<html>", b"%PDF-1.4", b"\xff\x0a"])
def test_content_that_is_no_picture_gives_no_ending(head: bytes) -> None:
    with pytest.raises(InvalidFileName, match="ends in one of"):
        picture_name("image", head)


def nested(depth: int, inner: object, kind: str) -> object:
    for _ in range(depth):
        inner = {"a": inner} if kind == "table" else [inner]
    return inner


@pytest.mark.parametrize("kind", ["list", "table"])
@pytest.mark.parametrize("key", ["prompt", "frames", "unknown"])
@pytest.mark.parametrize("depth", [*range(1, 1000, 37), 2_000, 100_000])
def test_settings_at_any_depth_are_mistakes(depth: int, key: str, kind: str) -> None:
    _, made, mistakes = make_override({key: nested(depth, 1, kind)}, CHECKER)
    assert made is None
    assert any(mistake.fatal for mistake in mistakes)
    assert all(len(str(mistake)) < 500 for mistake in mistakes)


texts = st.text(st.characters(exclude_categories=[]), max_size=30) | st.sampled_from(
    ["猫" * 2000, "\x01" * 2000, "{stem}", "{", "\n" * 2000, "x" * 2001, "\ufeff", "\r\n"]
)
makes = st.fixed_dictionaries(
    {}, optional={"prompt": texts, "negative_prompt": texts, "seed": st.integers(-1, 2**64),
                  "preset": st.sampled_from(["draft", "none"]), "frames": st.integers(7, 33),
                  "make": st.just({"prompt": "x"}), "variants": st.integers(0, 17)},
)  # fmt: skip


@settings(deadline=None)
@given(makes)
@example({"prompt": "\x01" * 2000, "negative_prompt": "\x01" * 2000})
@example({"prompt": "猫" * 2000, "negative_prompt": "犬" * 2000})
def test_settings_that_are_accepted_are_accepted_when_they_are_read(
    make: dict[str, object],
) -> None:
    override, made, mistakes = make_override(make, CHECKER)
    assert (made is None) == any(mistake.fatal for mistake in mistakes)
    if made is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "cat.png"
        picture.touch()
        assert write_override(picture, override)
        read, found = read_sidecar(find_overrides(picture), CHECKER)
    assert read == made
    assert not any(mistake.fatal for mistake in found)
