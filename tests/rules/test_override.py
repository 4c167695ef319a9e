"""Overrides: found under every spelling, left over when they came for an earlier picture."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.names import fold, nfc, spellings
from rules.override import Arrival, Override, find_overrides, picture_of


def found(picture: Path) -> list[str]:
    return [override.path.name for override in find_overrides(picture)]


@pytest.mark.parametrize("ending", [".toml", ".TOML", ".Toml", ".txt", ".TXT", ".tXt"])
def test_any_case_of_the_ending_counts(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"cat.jpg{ending}").touch()
    assert found(tmp_path / "cat.jpg") == [f"cat.jpg{ending}"]
    assert picture_of(f"cat.jpg{ending}") == "cat.jpg"


def test_the_name_before_the_ending_counts_to_the_letter(tmp_path: Path) -> None:
    for name in ("cat.JPG.toml", "cat.toml", "cat.jpg.toml.bak", "cat.jpgtoml"):
        (tmp_path / name).touch()
    assert found(tmp_path / "cat.jpg") == []


@pytest.mark.parametrize("name", ["é.jpg", "Ångström.png", "한글.jpg"])
@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_an_accent_is_the_same_in_both_forms(
    tmp_path: Path, name: str, forms: tuple[str, str]
) -> None:
    picture, override = (unicodedata.normalize(form, name) for form in forms)
    (tmp_path / f"{override}.txt").touch()
    assert found(tmp_path / picture) == [f"{override}.txt"]


def test_two_overrides_are_both_found(tmp_path: Path) -> None:
    for name in ("cat.jpg.toml", "cat.jpg.TOML", "cat.jpg.txt"):
        (tmp_path / name).write_text(name)
    assert found(tmp_path / "cat.jpg") == ["cat.jpg.toml", "cat.jpg.TOML", "cat.jpg.txt"]


def test_a_name_that_leaves_no_room_for_an_ending_has_no_override(tmp_path: Path) -> None:
    assert found(tmp_path / ("x" * 251 + ".jpg")) == []
    assert found(tmp_path / "no" / "such" / "folder" / "cat.jpg") == []


@pytest.mark.parametrize(
    ("came", "earlier_drop", "leftover"),
    [
        (0.0, None, False),  # both at once
        (-3599.0, None, False),
        (-3601.0, None, True),
        (-61.0, -100.0, True),  # for a picture that was taken before it came
        (-59.0, -100.0, False),
        (-61.0, -10.0, False),  # it was there before that picture was taken
        (500.0, None, False),  # later than its picture
        (500.0, -10.0, False),
    ],
)
def test_an_override_much_older_than_its_picture_is_left_over(
    came: float, earlier_drop: float | None, leftover: bool
) -> None:
    now = 1.8e9
    arrival = Arrival(now, None if earlier_drop is None else now + earlier_drop)
    assert Override(Path("cat.jpg.txt"), now + came).is_leftover(arrival) == leftover


@given(st.text(max_size=30))
def test_all_forms_of_a_name_fold_to_one(name: str) -> None:
    assert {nfc(form) for form in spellings(name)} == {nfc(name)}
    assert {fold(form) for form in spellings(name)} == {fold(name)}
    assert spellings(name)[0] == name
