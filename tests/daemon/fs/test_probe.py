"""Names and folders found out by trial: every folder that takes any name takes ours."""

import errno
import os
import subprocess
import unicodedata
from collections.abc import Callable
from pathlib import Path, PurePath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.fs import probe
from daemon.fs.atomic import CommitMethod, publish_exclusive
from daemon.fs.move import move
from daemon.fs.names import may_be_spelling, numbered_names
from daemon.fs.probe import find_name_rules, sweep
from daemon.fs.safe_path import check_beneath, create_beneath
from tests.system.disks import odd_folder
from tests.system.needs import missing


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


RESERVED = {"CON", "NUL", "AUX", "PRN", "COM1", "LPT1"}
NAMES = st.text(min_size=1, max_size=90).filter(
    lambda name: "/" not in name and "\0" not in name and name not in (".", "..")
)


def folder_that(max_bytes: int, refused: str, *, windows: bool) -> Callable[[Path, str], bool]:
    """A file system's rules on names, as `probe._takes` would find them."""

    def is_reserved(name: str) -> bool:
        return name[-1] in ". " or name.partition(".")[0].upper() in RESERVED

    def takes(_: Path, name: str) -> bool:
        return (
            0 < len(os.fsencode(name)) <= max_bytes
            and not any(c in refused for c in name)
            and not (
                windows and (name[-1] in ". " or name.split(".", maxsplit=1)[0].upper() in RESERVED)
            )
        )

    return takes


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    stem=NAMES | st.sampled_from(sorted(RESERVED)),
    suffix=st.sampled_from(["", ".png", ".mp4.json"]),
    max_bytes=st.integers(24, 255),
    refused=st.text(st.sampled_from(':?*<>|"\\ é絵🐈~#%;,\t'), max_size=8),
    windows=st.booleans(),
)
def test_whatever_a_folder_refuses_a_spelling_is_found(
    tmp_path: Path, stem: str, suffix: str, max_bytes: int, refused: str, windows: bool
) -> None:
    takes = folder_that(max_bytes, refused, windows=windows)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(probe, "_takes", takes)
        rules = find_name_rules(tmp_path, stem, suffix)
    assert list(tmp_path.iterdir()) == [], "nothing is left"
    if rules is None:
        assert takes(tmp_path, stem + suffix)
        return
    names = numbered_names(stem, suffix, rules)
    first, second = next(names), next(names)
    assert first != second
    assert first.endswith(suffix)
    assert takes(tmp_path, first)
    assert takes(tmp_path, second)
    for name in (first, second):
        assert may_be_spelling(name.removesuffix(suffix), stem), "it is found again"


@given(stem=NAMES)
def test_a_name_is_found_again_where_case_is_folded_or_letters_decomposed(stem: str) -> None:
    for form in ("NFC", "NFD"):
        assert may_be_spelling(unicodedata.normalize(form, stem), stem)
    if stem.isascii():
        assert may_be_spelling(stem.upper(), stem)


def test_other_names_are_no_spellings() -> None:
    for found in ("dog", "catalogue", "at"):
        assert not may_be_spelling(found, "cat-of-mine")


def test_the_longest_name_is_measured(tmp_path: Path) -> None:
    rules = find_name_rules(tmp_path, "x" * 300, ".mp4.json")
    assert rules is not None
    assert rules.max_bytes == 255
    assert len(rules.spell("x" * 300, ".mp4.json")) == 255
    assert find_name_rules(tmp_path, "x" * 230, ".mp4.json") is None


@pytest.mark.parametrize("refuses", [":", ': "', "é絵"])
@pytest.mark.parametrize("name_max", [36, 143])
def test_a_real_folder_gets_a_name_that_it_takes(
    tmp_path: Path, refuses: str, name_max: int
) -> None:
    inside = PurePath('a: é"b', "絵 10:00" + "y" * 140 + ".png")
    (tmp_path / "one").write_text("one")
    (tmp_path / "two").write_text("two")
    root = tmp_path / "odd"
    with odd_folder(root, refuses=refuses, name_max=name_max):
        one, two = (root / move(tmp_path / name, root, inside).inside for name in ("one", "two"))
        assert (one.read_text(), two.read_text()) == ("one", "two")
        assert one.parent == two.parent != root
        assert one.suffix == two.suffix == ".png"
        assert len(listed(one.parent)) == 2


def test_the_folder_that_refuses_is_named(tmp_path: Path) -> None:
    root = tmp_path / "outbox"
    (root / "album").mkdir(parents=True)
    (tmp_path / "cat").write_text("cat")
    command = ["chattr", "+i", str(root / "album")]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        missing("no file can be made immutable here; run this test as root, on ext4")
    try:
        for inside in ("album/cat", "album/deep/cat"):
            for act in (
                lambda inside=inside: move(tmp_path / "cat", root, inside),
                lambda inside=inside: check_beneath(root, PurePath(inside).parent),
            ):
                with pytest.raises(PermissionError) as caught:
                    act()
                assert caught.value.filename == str(root / "album")
        assert (tmp_path / "cat").read_text() == "cat"
    finally:
        subprocess.run(["chattr", "-i", str(root / "album")], check=True)


def test_the_source_is_named_when_it_stays(tmp_path: Path) -> None:
    stuck = tmp_path / "stuck"
    stuck.write_text("here")
    if subprocess.run(["chattr", "+i", stuck], check=False, capture_output=True).returncode:
        missing("no file can be made immutable here; run this test as root, on ext4")
    try:
        with pytest.raises(PermissionError) as caught:
            move(stuck, tmp_path / "archive", "stuck")
        assert caught.value.filename == str(stuck)
        assert listed(tmp_path / "archive") == []
    finally:
        subprocess.run(["chattr", "-i", stuck], check=True)


def test_folders_that_are_there_are_used_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    with create_beneath(tmp_path, PurePath("a:b/c")) as (folder, inside):
        assert inside == PurePath("a:b/c")
        (folder / "x").touch()
    assert (tmp_path / "a:b" / "c" / "x").exists()


def test_a_held_name_is_never_taken_by_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("new")
    (tmp_path / "held").write_text("held")
    assert not publish_exclusive(tmp_path / "new", tmp_path / "held", CommitMethod.RESERVE)
    with pytest.raises(FileNotFoundError):
        publish_exclusive(tmp_path / "nothing", tmp_path / "free", CommitMethod.RESERVE)
    assert listed(tmp_path) == ["held", "new"]
    assert publish_exclusive(tmp_path / "new", tmp_path / "free", CommitMethod.RESERVE)
    assert (tmp_path / "free").read_text() == "new"
    assert (tmp_path / "held").read_text() == "held"


def test_what_a_crash_left_is_swept_once_it_is_old(tmp_path: Path) -> None:
    left = [tmp_path / ".i2vd-0123456789abcdef.part", tmp_path / f"{probe.PROBE}1"]
    left[0].touch()
    left[1].mkdir()
    (left[1] / "x").touch()
    (tmp_path / "cat.part").touch()
    (tmp_path / ".i2vd-storage").touch()
    sweep(tmp_path)
    assert len(listed(tmp_path)) == 4, "another host may be at it"
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    sweep(tmp_path)
    assert listed(tmp_path) == [".i2vd-storage", "cat.part"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_folder_without_room_is_no_matter_of_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "probe")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        find_name_rules(tmp_path, "a:b")
    assert caught.value.filename == str(tmp_path)
