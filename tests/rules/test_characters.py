"""Characters: the few unsafe ones are refused, every script of the world is taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config.secret_file import read_token
from daemon.config.settings import SettingsError
from daemon.intake.submit import InvalidFileName, picture_name
from daemon.telemetry.terminal import escape
from rules.characters import (
    escape_unsafe,
    has_unsafe,
    one_line,
    quoted,
    replace_unsafe,
    replace_unsafe_in_path,
)
from rules.parse import parse_folder, parse_rule
from rules.rule import Make, Picture, Rule
from tests.rules.test_parse import CHECK
from tests.rules.test_rule import pic

TAKEN = [
    "Screenshot 2026-05-12 at 4.42.48\u202fPM",
    "猫　走る",
    "می\u200cخواهم",
    "क्\u200dष हिन्दी",
    "👨\u200d👩\u200d👧\u200d👦 🏴\U000e0067\U000e0062\U000e007f ❤\ufe0f",
    "ภาพถ่าย\u200bแมว",
    "\u200fשלום\u200e \u061cسلام",
    "non\u00a0breaking soft\u00adhyphen figure\u2007space",
    "private \ue000 unassigned \u0378 later \U0001fbff",
    "o\u0308 combining, ideographic 𠮷",
]
REFUSED = [
    *"\n\r\t\x00\x1b\x7f\x85\x9b\u2028\u2029\ud800\udce9",
    *map(chr, range(0x202A, 0x202F)),
    *map(chr, range(0x2066, 0x206A)),
]


@pytest.mark.parametrize("text", TAKEN)
def test_every_script_is_taken_as_it_is(text: str) -> None:
    assert not has_unsafe(text)
    assert escape_unsafe(text) == replace_unsafe(text, "?") == one_line(text) == text
    assert quoted(text) == f"'{text}'"
    assert escape(text) == text
    assert picture_name(f"{text}.png") == f"{text}.png"
    rule, mistakes = parse_rule(
        "10.toml", f'output = "{text}"\n[make]\nprompt = "{text} {{caption}}"\n', CHECK
    )
    assert rule is not None, mistakes
    assert rule.output_stem(pic("x.png")) == text
    given = Picture(pic("x.png").path, 1, 1, caption=text)
    assert rule.make.settings(given)["prompt"] == f"{text} {text}"


@pytest.mark.parametrize("text", TAKEN)
def test_a_rule_file_may_have_any_name(text: str, tmp_path) -> None:
    (tmp_path / f"{text}.toml").write_text('[make]\nprompt = "x"\n')
    rules, mistakes = parse_folder(tmp_path, CHECK)
    assert rules is not None, mistakes
    assert [rule.name for rule in rules.rules] == [text]


@pytest.mark.parametrize("character", REFUSED, ids=ascii)
def test_an_unsafe_character_is_refused_or_replaced(character: str, tmp_path) -> None:
    text = f"a{character}b"
    assert has_unsafe(text)
    assert escape_unsafe(text).isascii()
    assert replace_unsafe(text, "_") == "a_b"
    assert one_line(text) == "a b"
    with pytest.raises(InvalidFileName, match="must not hold control characters") as refused:
        picture_name(f"{text}.png")
    assert not has_unsafe(str(refused.value))
    rule, _ = parse_rule("1.toml", f'output = "a\\u{ord(character):04x}b"\nmake.prompt="x"', CHECK)
    assert rule is None
    stem = Rule("10").output_stem(pic(f"{text}.png"))
    assert stem == (text if "\udc80" <= character <= "\udcff" else "a_b")
    made = Make({"prompt": "{caption}"}).settings(Picture(pic("x.png").path, 1, 1, caption=text))
    assert made["prompt"] == "a b"


@pytest.mark.parametrize("character", "\x01\x7f\x1b ")
def test_a_token_holds_no_unsafe_character(character: str, tmp_path) -> None:
    (tmp_path / "token").write_text("long-enough-as-it-is" + character + "x")
    with pytest.raises(SettingsError, match="not one word"):
        read_token(tmp_path / "token")


@given(st.text())
def test_an_escaped_text_is_one_line_for_every_program(text: str) -> None:
    for safe in (escape_unsafe(text), replace_unsafe(text, "\ufffd"), one_line(text)):
        assert not has_unsafe(safe)
        assert len(safe.splitlines()) <= 1
        safe.encode()


@given(st.text())
def test_bytes_that_are_not_utf8_stay_in_a_path(text: str) -> None:
    safe = replace_unsafe_in_path(text, "_")
    assert len(safe) == len(text)
    kept = [(a, b) for a, b in zip(text, safe, strict=True) if a != b]
    assert all(has_unsafe(a) and not "\udc80" <= a <= "\udcff" and b == "_" for a, b in kept)
